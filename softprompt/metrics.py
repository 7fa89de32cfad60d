"""Scores of predictions against what counts as right, all in 0..1 (correlations in -1..1). No torch here.

Classes are ids; -1 is an answer that is no label, and never right. NaN is an answer that is no number.
"""

import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from .errors import BadInput, pick

Classes = Sequence[int]
Numbers = Sequence[float]
# scikit-learn accepts a number for `zero_division`, its annotations only a string.
_ZERO: Any = 0.0


def accuracy(predictions: Classes, targets: Classes) -> float:
    """The share of rows answered right."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(targets, predictions))


def f1(predictions: Classes, targets: Classes) -> float:
    """F1 of class 1. An invalid answer counts as the opposite of its target, as in ATTEMPT's metrics.py.

    Over all answers of MultiRC this is its F1a (Khashabi et al., 2018).
    """
    from sklearn.metrics import f1_score

    return float(f1_score(targets, _opposed(predictions, targets), pos_label=1, average="binary", zero_division=_ZERO))


def macro_f1(predictions: Classes, targets: Classes) -> float:
    """The mean over classes of each class's F1; classes that neither occur nor are predicted do not count.

    An invalid answer is a miss of its target's class; with two classes it also counts as the other one.
    """
    from sklearn.metrics import f1_score

    predictions = _opposed(predictions, targets)
    classes = sorted({*targets, *(p for p in predictions if p >= 0)})
    return float(f1_score(targets, predictions, labels=classes, average="macro", zero_division=_ZERO))


def _opposed(predictions: Classes, targets: Classes) -> list[int]:
    if any(value not in (-1, 0, 1) for value in {*predictions, *targets}):
        return list(predictions)
    return [1 - target if p < 0 else p for p, target in zip(predictions, targets, strict=True)]


def matthews(predictions: Classes, targets: Classes) -> float:
    """Matthews correlation; 0 for a constant prediction. An invalid answer is a class of its own."""
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        # scikit-learn warns where there is one class only; it answers 0, as said above.
        warnings.simplefilter("ignore")
        return float(matthews_corrcoef(targets, predictions))


def pearson(predictions: Numbers, targets: Numbers) -> float:
    """Pearson correlation; no number counts as -1.0, an undefined correlation as 0, as in ATTEMPT's metrics.py."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, targets)


def spearman(predictions: Numbers, targets: Numbers) -> float:
    """Spearman rank correlation, with the conventions of `pearson`."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, targets)


def _correlation(function: Callable[..., Any], predictions: Numbers, targets: Numbers) -> float:
    if len(targets) < 2:
        return 0.0
    numbers = [p if math.isfinite(p) else -1.0 for p in predictions]
    with warnings.catch_warnings():
        # scipy warns that a constant has no correlation; that case is answered by 0 below.
        warnings.simplefilter("ignore")
        value = float(function(numbers, targets).statistic)
    return 0.0 if math.isnan(value) else value


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
    "squad-f1": squad_f1,
    "exact-match": exact_match,
}


def score(metrics: Sequence[str], predictions: Sequence[Any], gold: Sequence[Any]) -> dict[str, float]:
    """Each metric's value by name.

    Raises:
        UnknownName: a metric that does not exist.
        BadInput: no rows, or not one prediction a row.
    """
    functions = {name: pick("metric", name, METRICS) for name in metrics}
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
    """Whether a run has not got half of the way from chance to the ceiling.

    Args:
        score: of the run.
        chance: of always answering the most frequent class; 0 for free text.
        ceiling: what can be reached, as the best run of the same task.
    """
    return ceiling <= chance or score < (chance + ceiling) / 2
