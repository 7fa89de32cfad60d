"""Scores of predictions against right answers, in 0..1 (correlations in -1..1, errors from 0). No torch here.

Classes are ids. -1 stands for an answer that is no label, which is never right; NaN for an answer that is no number.
"""

import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from .checks import listed
from .errors import BadInput, pick

Classes = Sequence[int]
Numbers = Sequence[float]
# scikit-learn accepts a number for `zero_division`, its annotations only a string.
_ZERO: Any = 0.0


def accuracy(predictions: Classes, targets: Classes) -> float:
    """The share of rows with the right answer."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(targets, predictions))


def f1(predictions: Classes, targets: Classes) -> float:
    """F1 of class 1. An invalid answer counts as the opposite of its target, as in ATTEMPT's metrics.py.

    Over all answers of MultiRC this is its F1a (Khashabi et al., 2018).
    """
    from sklearn.metrics import f1_score

    return float(f1_score(targets, opposed(predictions, targets), pos_label=1, average="binary", zero_division=_ZERO))


def macro_f1(predictions: Classes, targets: Classes) -> float:
    """The mean over classes of each class's F1; classes that neither occur nor are predicted do not count.

    An invalid answer is a miss of its target's class, and no answer of another class.
    """
    from sklearn.metrics import f1_score

    classes = sorted({*targets, *(p for p in predictions if p >= 0)})
    return float(f1_score(targets, predictions, labels=classes, average="macro", zero_division=_ZERO))


def opposed(predictions: Classes, targets: Classes) -> list[int]:
    """The predictions; with two classes, an invalid one becomes the class that is not its target's."""
    if any(value not in (-1, 0, 1) for value in {*predictions, *targets}):
        return list(predictions)
    return [1 - target if p < 0 else p for p, target in zip(predictions, targets, strict=True)]


def matthews(predictions: Classes, targets: Classes) -> float:
    """Matthews correlation; 0 for a constant prediction. An invalid answer is a class of its own."""
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        # scikit-learn warns if there is only one class, and returns 0, as documented above.
        warnings.simplefilter("ignore")
        return float(matthews_corrcoef(targets, predictions))


def pearson(predictions: Numbers, targets: Numbers) -> float:
    """Pearson correlation; no number counts as -1.0, an undefined correlation as 0, as in ATTEMPT's metrics.py.

    Where targets are negative, no number counts as 1 less than the lowest of them.
    """
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, targets)


def spearman(predictions: Numbers, targets: Numbers) -> float:
    """Spearman rank correlation, with the conventions of `pearson`."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, targets)


def _correlation(function: Callable[..., Any], predictions: Numbers, targets: Numbers) -> float:
    if len(targets) < 2:
        return 0.0
    numbers = lowered(predictions, targets)
    with warnings.catch_warnings():
        # scipy warns that a constant has no correlation; that case is answered by 0 below.
        warnings.simplefilter("ignore")
        value = float(function(numbers, targets).statistic)
    return 0.0 if math.isnan(value) else value


def lowered(predictions: Numbers, targets: Numbers) -> list[float]:
    """The predictions, in which NaN becomes a number below all targets, as in `pearson`."""
    below = min(0.0, *targets) - 1
    return [p if math.isfinite(p) else below for p in predictions]


def rmse(predictions: Numbers, targets: Numbers) -> float:
    """The root of the mean squared error, in the targets' units.

    An answer that is no number counts as the lowest or the highest target, whichever is farther from its own; where
    all targets are one number, as 0, or as 1 off if they are 0.
    """
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(targets, farthest(predictions, targets)))


def mae(predictions: Numbers, targets: Numbers) -> float:
    """The mean absolute error, in the targets' units; an answer that is no number counts as in `rmse`."""
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(targets, farthest(predictions, targets)))


def farthest(predictions: Numbers, targets: Numbers) -> list[float]:
    """The predictions, in which NaN becomes the lowest or the highest target, whichever is farther, as in `rmse`."""
    ends = {min(targets), max(targets)}
    if len(ends) == 1:
        ends = {0.0} - ends or {1.0}
    pairs = zip(predictions, targets, strict=True)
    return [p if math.isfinite(p) else max(ends, key=lambda end: abs(end - t)) for p, t in pairs]


def squad_f1(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """Token F1 against the best of the accepted texts, averaged over rows.

    SQuAD 1.1 (Rajpurkar et al., 2016, arXiv:1606.05250), evaluate-v1.1.py: lower case, no punctuation or articles.
    """
    rows = zip(predictions, targets, strict=True)
    return sum(max(_token_f1(text, answer) for answer in answers) for text, answers in rows) / len(targets)


def exact_match(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """The share of rows equal to one of the accepted texts, normalised as in `squad_f1`."""
    rows = zip(predictions, targets, strict=True)
    return sum(_normalized(text) in map(_normalized, answers) for text, answers in rows) / len(targets)


def _normalized(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _token_f1(prediction: str, answer: str) -> float:
    ours, theirs = _normalized(prediction).split(), _normalized(answer).split()
    common = (Counter(ours) & Counter(theirs)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1a": f1,
    "macro-f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "rmse": rmse,
    "mae": mae,
    "squad-f1": squad_f1,
    "exact-match": exact_match,
}

# Metrics of the second of two labels.
OF_TWO = ("f1", "f1a")
# Metrics that compare the order of labels.
CORRELATIONS = ("pearson", "spearman")
# Metrics that are errors: less is better, so they count negatively in a score. Programs may add their own.
ERRORS = {"rmse", "mae"}
# The metrics for each kind of answer.
MEASURES = {
    "label": ("accuracy", "f1", "f1a", "macro-f1", "matthews", "pearson", "spearman"),
    "number": ("pearson", "spearman", "rmse", "mae"),
    "text": ("squad-f1", "exact-match"),
}


def refuse_other_metrics(
    answer: str, metrics: Sequence[str], headline: Sequence[str] = (), labels: Sequence[Any] = ()
) -> None:
    """Refuse metrics that do not fit such answers, and a mean of errors and scores.

    Args:
        answer: "label", "number" or "text".
        metrics: names.
        headline: of these, whose mean is the score.
        labels: the label of each class id; empty where they are not known yet.

    Raises:
        UnknownName: a metric that does not exist.
        BadInput: with those that there are.
    """
    for name in metrics:
        pick("metric", name, METRICS)
        if name not in MEASURES[answer]:
            raise BadInput(
                f"metric {name!r} does not measure answers by {answer}; choose of {', '.join(MEASURES[answer])}"
            )
        if answer == "label" and labels:
            _refuse_other_labels(name, labels)
    if len({name in ERRORS for name in headline}) > 1:
        raise BadInput(f"the mean of {' and '.join(headline)} is no score: the less of an error, the better; give one")


def _refuse_other_labels(name: str, labels: Sequence[Any]) -> None:
    """Refuse a metric of two labels for more, and one of an order for labels that have none."""
    if name in OF_TWO and len(labels) != 2:
        raise BadInput(f"metric {name!r} is of two labels, and this task has {len(labels)}; choose macro-f1")
    if name in CORRELATIONS and not _ascend(labels):
        raise BadInput(
            f"metric {name!r} is of labels that are ascending numbers, not of {', '.join(map(repr, labels[:3]))}; "
            "choose accuracy or macro-f1"
        )


def _ascend(labels: Sequence[Any]) -> bool:
    """Whether labels are numbers, each larger than the one before."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return False
    return all(a < b for a, b in pairwise(numbers))


def headline_score(metrics: Mapping[str, float], headline: Sequence[str]) -> float:
    """The mean of the headline metrics. Errors are negated, so that more is always better."""
    return sum(-metrics[name] if name in ERRORS else metrics[name] for name in headline) / len(headline)


def score(metrics: Sequence[str], predictions: Sequence[Any], gold: Sequence[Any]) -> dict[str, float]:
    """Each metric's value by name.

    Raises:
        UnknownName: a metric that does not exist.
        BadInput: no rows, or not one prediction a row.
    """
    functions = {name: pick("metric", name, METRICS) for name in listed("metrics", metrics)}
    if not gold or len(predictions) != len(gold):
        raise BadInput(f"{len(predictions)} predictions for {len(gold)} rows cannot be scored; give one a row")
    return {name: function(predictions, gold) for name, function in functions.items()}


def majority(gold: Classes) -> tuple[int, float]:
    """The most frequent class and its share: the accuracy of a constant answer; the lowest class on a tie."""
    if not gold:
        raise BadInput("no rows, no majority class")
    counts = Counter(gold)
    best = min(counts, key=lambda c: (-counts[c], c))
    return best, counts[best] / len(gold)


def is_stuck(score: float, chance: float, ceiling: float) -> bool:
    """Whether a run has come less than half of the way from chance to the ceiling: score < (chance + ceiling) / 2.

    Where nothing is above chance, everything is stuck; so is a score that is no number.

    Args:
        score: of the run.
        chance: of always answering the most frequent class; 0 where answers are free text.
        ceiling: of the best run of the same task, or a known reference.
    """
    return not (ceiling > chance and score >= (chance + ceiling) / 2)


def known_score(*scores: float | None) -> float:
    """What is ordered by scores that may be missing: the first that is known, and without any less than all scores."""
    return next((score for score in scores if score is not None), -math.inf)


class Judged(NamedTuple):
    """A prompt on validation rows during training, of which the best is stored.

    Args:
        step: optimiser step; 0 is of a prompt that began as words, as it began.
        score: on the validation rows.
        label_loss: mean of -log p(right label) in nats; None where no labels were scored, or it was not kept.
    """

    step: int
    score: float
    label_loss: float | None = None

    def is_better_than(self, best: "Judged") -> bool:
        """Whether the score is higher, or equal with a smaller loss over labels: few rows give many equal scores.

        Words are left for a higher score only: of equal scores, what was written is the safer choice.
        """
        if self.score != best.score or best.step == 0 or self.label_loss is None or best.label_loss is None:
            return self.score > best.score
        return self.label_loss < best.label_loss


def best_judged(judged: Sequence[Judged]) -> Judged | None:
    """The best of some, in the order of their steps; None of none."""
    best = judged[0] if judged else None
    for later in judged[1:]:
        best = later if best is None or later.is_better_than(best) else best
    return best
