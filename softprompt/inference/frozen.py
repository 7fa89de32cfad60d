"""What a frozen model does without a trained prompt: what a prompt has to be compared with, on the same rows."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..backbones import AbstractBackbone
from ..data import Rows, limited
from ..documents import check_shape
from ..errors import BadInput
from ..metrics import headline_score, majority, score
from ..settings import TrainSettings
from ..tasks import INSTRUCT, TASKS, Task, gold, instruct, lab_instruction
from .calibration import Calibration
from .decoding import decoding
from .in_context import drawn_examples, written
from .intervals import Interval, difference_interval, intervals
from .without_prompt import NEW_RUN, answers_of, fitted_bias, label_scores_of

log = logging.getLogger("softprompt")

SHOTS, DRAWS = 4, 3
# Training rows, at most, on which a bias for each class is fitted, and wordings are compared.
FITTED_ROWS = 100
# What prompts are compared with, the strongest first.
REFERENCES = ("instruction", "frozen")


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """How well something that was not trained answers some rows.

    Args:
        name: "majority", "frozen", "instruction" or "4 examples".
        score: the task's score.
        interval: its 95 % interval.
        predictions: class ids.
        text: what the model is given, with its columns in braces; empty where it is given nothing.
        draw: seed of the examples.
        calibrated: the score with a bias for each class, fitted on training rows; None where none was fitted.
    """

    name: str
    score: float
    interval: Interval | None
    predictions: Sequence[int]
    text: str = ""
    draw: int | None = None
    calibrated: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Baseline":
        """The baseline that `to_json` wrote.

        Raises:
            BadInput: a value of another kind.
        """
        check_shape(cls, values, interval=tuple[float, float] | None, predictions=list[Any])
        ends = values["interval"]
        return cls(**{**values, "interval": None if ends is None else (ends[0], ends[1])})


def refuse_no_labels(task: Task) -> None:
    """Refuse a task that is not answered by a label.

    Raises:
        BadInput: with what is needed.
    """
    if task.answer != "label":
        raise BadInput(
            f"task {task.name!r} is answered by a {task.answer}; baselines are of tasks with labels, so train a prompt "
            "on it without them"
        )


def handwritten(task: Task, kind: str, columns: Sequence[str]) -> Task | None:
    """The task with the best known instruction for a kind of model; None where nobody wrote one.

    Args:
        task: as prompts are trained on it.
        kind: of backbone.
        columns: that the rows have.
    """
    if task.instruction:
        return task
    if (words := lab_instruction(task)) is not None:
        return dataclasses.replace(task, instruction=words)
    if kind != "decoder" or task.name not in INSTRUCT:
        return None
    put_so = dataclasses.replace(instruct(task), prepare=TASKS[task.name].prepare)
    return put_so if set(put_so.columns) <= set(columns) else None


def baselines(
    backbone: AbstractBackbone,
    task: Task,
    rows: Rows,
    train: Rows,
    *,
    settings: TrainSettings = NEW_RUN,
    calibrate: bool = False,
    validation: Rows | None = None,
    draws: int = DRAWS,
) -> list[Baseline]:
    """Majority, frozen model, instruction, and examples in context, on the same rows.

    A linear head answers nothing before it is trained: then it is the majority alone. Examples are for decoders, which
    learn from what stands before a text; where they do not fit, a warning says so.

    Args:
        backbone: frozen.
        task: as prompts are trained on it.
        rows: those that are reported.
        train: those that examples are drawn from and biases fitted on.
        settings: of the run whose prompts are compared with them, which answer in the same way.
        calibrate: fit a bias for each class, at the cost of up to 100 rows more for each line.
        validation: rows on which the scores of each line are calibrated, as those of prompts of such a run are; None
            leaves them as they are.
        draws: contexts.

    Raises:
        BadInput: a task without labels.
    """
    refuse_no_labels(task)
    right = classes_of(task, rows)
    most, _ = majority(right)
    lines = [_baseline("majority", task, [most] * len(right), right)]
    if backbone.answers == "linear-head":
        return lines
    scores_labels = decoding(task, backbone, settings.decode) == "scores"
    fitted = fitting_rows(train) if calibrate and len(train) and scores_labels else None
    compared = _Asked(backbone, rows, right, fitted, validation if scores_labels else None, settings)
    lines.append(compared.baseline("frozen", dataclasses.replace(task, instruction="")))
    best = handwritten(task, backbone.kind, list(rows.columns))
    if best is not None:
        lines.append(compared.baseline("instruction", best))
    if backbone.kind != "decoder" or not len(train):
        return lines
    try:
        for draw in range(draws):
            lines.append(compared.with_examples(best or task, drawn_examples(task, train, SHOTS, draw), draw))
    except BadInput as error:
        log.warning("no examples in context: %s", error.message)
    return lines


@dataclass(frozen=True)
class _Asked:
    """A frozen model and the rows that it answers without a prompt.

    Args:
        backbone: frozen.
        rows: those that are reported.
        right: their class ids.
        fitted: rows on which a bias for each class is fitted; None fits none.
        validation: rows on which all scores are calibrated; None leaves them as they are.
        settings: of the run whose prompts are compared with the answers.
    """

    backbone: AbstractBackbone
    rows: Rows
    right: Sequence[int]
    fitted: Rows | None
    validation: Rows | None
    settings: TrainSettings

    def baseline(self, name: str, task: Task, context: str = "", draw: int | None = None) -> Baseline:
        """What the model answers to the task as it is put, with an unchanged and a calibrated score."""
        answers = answers_of(self.backbone, task, self.rows, context, self.settings)
        if self.validation is not None:
            answers = answers.calibrated(self._calibration(task, context, self.validation), task)
        calibrated = None
        if self.fitted is not None and answers.scores is not None:
            moved = answers.scores + self._bias(task, context, self.fitted)
            calibrated = score_of(task, moved.argmax(-1).tolist(), self.right)
        text = task.opening + context + task.template + ("" if task.cue is None else task.cue)
        return _baseline(name, task, answers.values, self.right, text=text, draw=draw, calibrated=calibrated)

    def _bias(self, task: Task, context: str, fitted: Rows) -> Float[Tensor, " c"]:
        return fitted_bias(
            label_scores_of(self.backbone, task, fitted, context, self.settings), classes_of(task, fitted)
        )

    def _calibration(self, task: Task, context: str, validation: Rows) -> Calibration:
        scores = label_scores_of(self.backbone, task, validation, context, self.settings)
        return Calibration.fit(scores, classes_of(task, validation), task.labels)

    def with_examples(self, task: Task, examples: Sequence[Mapping[str, Any]], draw: int) -> Baseline:
        """What the model answers after a few labelled rows.

        Raises:
            BadInput: the examples leave no room for a row.
        """
        context = written(self.backbone, task, examples)
        return self.baseline(f"{len(examples)} examples", task, context, draw)


def classes_of(task: Task, rows: Rows) -> list[int]:
    """The class id of each row."""
    return [int(value) for row in rows if not isinstance(value := gold(task, row), list)]


def fitting_rows(train: Rows) -> Rows:
    """The training rows on which biases are fitted and wordings compared."""
    return limited(train, FITTED_ROWS)


def _baseline(name: str, task: Task, predictions: list[int], right: Sequence[int], **more: Any) -> Baseline:
    interval = intervals(task.metrics, task.scores, predictions, list(right)).get("score")
    return Baseline(
        name=name, score=score_of(task, predictions, right), interval=interval, predictions=predictions, **more
    )


def reference_among(names: Sequence[str]) -> int:
    """The place of what prompts are compared with: the instruction, else the frozen model, else the first."""
    return next((names.index(name) for name in REFERENCES if name in names), 0)


def score_of(task: Task, predictions: Sequence[int], right: Sequence[int]) -> float:
    """The task's score of class ids."""
    return headline_score(score(task.metrics, list(predictions), list(right)), task.scores)


def over(task: Task, predictions: Sequence[int], baseline: Baseline, right: Sequence[int]) -> tuple[float, Interval]:
    """How much better predictions score than a baseline on the same rows, and the 95 % interval of that."""
    difference = score_of(task, predictions, right) - baseline.score
    return difference, difference_interval(task.scores, predictions, baseline.predictions, right)
