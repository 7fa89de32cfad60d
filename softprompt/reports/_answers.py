"""The answers of one prompt to its test rows: classes, calibration, the worst errors and the least sure answers."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, DamagedFile, SoftPromptError
from ..run_layout import FROZEN
from ..tasks import Task
from ..training import Plan, changed_files, read_plan
from ._entry import Entry

if TYPE_CHECKING:
    import numpy as np

    from ..inference.class_scores import ClassScores

# Where `softprompt evaluate RUN/PROMPT --output RUN/PROMPT/evaluation` has put the answers.
KEPT = Path("evaluation") / "predictions.jsonl"
SHOWN, TEXT = 10, 400
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much better a prompt scores than what was not trained, on the same rows.

    Args:
        over: name of what was not trained: "instruction", "frozen" or "majority".
        rows: how many.
        difference: of the scores.
        low: end of its 95 % interval over rows.
        high: the other end.
    """

    over: str
    rows: int
    difference: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a prompt answered to each row of a split.

    Args:
        label: name of the prompt on the page.
        task: what was asked.
        rows: as in `predictions.jsonl`: id, text, gold, prediction, and scores by label where labels were scored.
        score: the task's score.
        interval: its 95 % interval over rows; None for a single row.
        classes: confusion matrix and scores of each class; None where answers are no classes.
        is_asked: whether the model was asked test rows just now; else they are kept answers to rows of any split.
        is_of_run: whether those are the test rows that the run was scored on, also where it was not all of them.
        gain: over the strongest of what was not trained and answered the same rows; None where that is not known.
    """

    label: str
    task: Task
    rows: Sequence[Row]
    score: float
    interval: tuple[float, float] | None
    classes: "ClassScores | None"
    gain: Gain | None
    is_asked: bool = False
    is_of_run: bool = False

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.rows)

    @property
    def has_scores(self) -> bool:
        """Whether each answer has the probabilities of the labels."""
        return bool(self.rows) and all("scores" in row for row in self.rows)

    def worst(self, count: int = SHOWN) -> list[dict[str, Any]]:
        """The wrong answers of which the prompt was most sure; in the order of the rows where no label was scored."""
        wrong = [row for row in self.rows if not _is_right(row)]
        return [_shown(row) for row in sorted(wrong, key=lambda row: -_confidence(row))[:count]]

    def least_sure(self, count: int = SHOWN) -> list[dict[str, Any]]:
        """The answers whose label is least ahead of the next one; none where no label was scored."""
        if not self.has_scores:
            return []
        return [_shown(row) for row in sorted(self.rows, key=_margin)[:count]]


def kept_answers(entry: Entry) -> Answered | None:
    """The answers that `softprompt evaluate --output` has put beside a prompt; None where there are none.

    Raises:
        DamagedFile: the file cannot be read.
    """
    path = entry.folder / KEPT if entry.folder else None
    if path is None or not path.is_file():
        return None
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        return of_rows(entry.label, _asked(entry), rows, entry.folder)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{path} is not as it was written ({error}); delete it, and evaluate again") from error


def _asked(entry: Entry) -> Task:
    """The task as a prompt was trained on it: the run of a study names the task before its style is applied."""
    from ..inference.asked import task_of
    from ..interop.stored import load

    try:
        return task_of(load(str(entry.folder)), None, None)
    except SoftPromptError:
        return entry.run.spec.declared


def evaluated(entry: Entry, **options: Any) -> Answered:
    """The answers of a prompt to the test rows of its run, or to so many as `test_rows` says; takes the frozen model.

    Raises:
        BadInput: the file of the test rows has changed since the run.
        SoftPromptError: the rows or the model cannot be read.
    """
    from ..inference.evaluate import evaluate
    from ..interop.stored import load

    assert entry.folder is not None
    # A prompt that a study kept is in a run too.
    spec, plan = entry.run.spec, read_plan(entry.folder.parent)
    _refuse_other_rows(plan)
    own = {"test_rows": spec.settings.test_rows, "max_bad_rows": spec.max_bad_rows, "data_root": plan.data_root}
    chosen = {**{name: item for name, item in own.items() if item}, **options}
    evaluation = evaluate(load(str(entry.folder)), **chosen)
    answered = of_rows(entry.label, evaluation.task or spec.declared, evaluation.rows, entry.folder)
    scored = own["test_rows"]
    is_of_run = evaluation.of is None if scored is None else chosen["test_rows"] == scored
    return replace(answered, is_asked=True, is_of_run=is_of_run)


def _refuse_other_rows(plan: Plan) -> None:
    # The score of the run stands on the page beside these answers, as if both were of the same rows.
    if changed := changed_files(plan, "test"):
        raise BadInput(f"{', '.join(changed)} had other contents when this prompt was scored; restore it")


def of_rows(label: str, task: Task, rows: Sequence[Row], folder: Path | None = None) -> Answered:
    """What the answers to some rows say.

    Args:
        label: name of the prompt.
        task: what was asked.
        rows: as in `Answered`.
        folder: of the prompt in its run, which may keep the answers of the frozen model.

    Raises:
        KeyError: a row lacks its text, what is right, or the answer.
    """
    from ..inference.class_scores import ClassScores
    from ..inference.intervals import intervals
    from ..metrics import headline_score
    from ..metrics import score as score_of

    labels = {word: number for number, word in enumerate(task.labels)}
    is_label = task.answer == "label"
    gold = [labels[row["gold"]] if is_label else row["gold"] for row in rows]
    answers = [labels.get(row["prediction"], -1) if is_label else _number(task, row["prediction"]) for row in rows]
    score = headline_score(score_of(task.metrics, answers, gold), task.scores)
    return Answered(
        label=label,
        task=task,
        rows=list(rows),
        score=score,
        interval=intervals(task.metrics, task.scores, answers, gold).get("score"),
        classes=ClassScores.of(task.labels, answers, gold) if is_label else None,
        gain=_gain(task, answers, gold, folder) if is_label and len(rows) > 1 else None,
    )


def _gain(task: Task, answers: Sequence[Any], gold: Sequence[Any], folder: Path | None) -> Gain | None:
    """The gain over the frozen model where the run kept its answers to some of these rows, else over one class."""
    from ..inference.frozen import Baseline, over, reference_among, score_of
    from ..inference.kept_baselines import read_baselines
    from ..metrics import majority

    kept = folder.parent / FROZEN if folder else None
    if kept is None or not kept.is_file():
        constant = [majority(gold)[0]] * len(gold)
        line = Baseline(name="majority", score=score_of(task, constant, gold), interval=None, predictions=constant)
        places: Sequence[int] = range(len(gold))
    else:
        try:
            about, lines = read_baselines(kept)
            places = about["places"]
        except (SoftPromptError, KeyError):
            return None
        line = lines[reference_among([line.name for line in lines])]
        # The answers may be to other rows than those of the run: then they do not give its scores.
        if max(places) >= len(gold) or score_of(task, line.predictions, [gold[p] for p in places]) != line.score:
            return None
    difference, (low, high) = over(task, [answers[p] for p in places], line, [gold[p] for p in places])
    return Gain(over=line.name, rows=len(places), difference=difference, low=low, high=high)


def calibration(rows: Sequence[Row]) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """Mean confidence, accuracy and number of rows of each bin of confidence, as the calibration error counts them."""
    import numpy as np

    from ..inference.class_scores import calibration_bins

    return calibration_bins(np.array([_confidence(row) for row in rows]), np.array([_is_right(row) for row in rows]))


def _number(task: Task, value: Any) -> Any:
    if task.answer != "number":
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _is_right(row: Row) -> bool:
    gold = row["gold"]
    return row["prediction"] in gold if isinstance(gold, list) else row["prediction"] == gold


def _confidence(row: Row) -> float:
    return max(row["scores"].values()) if "scores" in row else 0.0


def _margin(row: Row) -> float:
    first, second = [*sorted(row["scores"].values(), reverse=True), 0.0][:2]
    return first - second


def _shown(row: Row) -> dict[str, Any]:
    text = " ".join(str(row["text"]).split())
    gold = row["gold"]
    return {
        "id": row.get("id", ""),
        "text": text if len(text) <= TEXT else f"{text[: TEXT - 1]}…",
        "gold": " / ".join(map(str, gold)) if isinstance(gold, list) else gold,
        "prediction": row["prediction"],
        "confidence": _confidence(row) if "scores" in row else None,
        "is_right": _is_right(row),
    }
