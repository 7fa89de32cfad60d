"""What a frozen model does without a trained prompt: what a prompt has to be held against, on the same rows."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones import AbstractBackbone
from ..data import Rows
from ..errors import BadInput
from ..metrics import headline_score, majority, score
from ..prompts.batch import PromptBatch
from ..tasks import INSTRUCT, TASKS, Task, gold, instruct, lab_instruction
from .answers import answer
from .context import drawn_examples, written
from .evaluate import examples_for
from .intervals import Interval, difference_interval, intervals

log = logging.getLogger("softprompt")

SHOTS, DRAWS = 4, 3
# Training rows on which a bias for each class is fitted, and wordings are compared.
FITTED_ROWS = 100
CALIBRATION = f"a bias for each class, fitted on {FITTED_ROWS} training rows"


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
        calibrated: the score with a bias for each class (CALIBRATION); None where none was fitted.
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
        """The baseline that `to_json` wrote."""
        ends = values["interval"]
        return cls(**{**values, "interval": None if ends is None else (ends[0], ends[1])})


def refuse_no_labels(task: Task) -> None:
    """Refuse a task that is not answered by a label.

    Raises:
        BadInput: with what is needed.
    """
    if task.answer != "label":
        raise BadInput(f"task {task.name!r} is answered by a {task.answer}; baselines are of tasks with labels")


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


def label_scores_of(
    backbone: AbstractBackbone, task: Task, rows: Any, context: str = "", batch_size: int = 16
) -> Float[Tensor, "n c"]:
    """Log-probability in nats of each label word, without a prompt.

    Args:
        backbone: frozen.
        task: how rows are put.
        rows: with the task's columns.
        context: stands between the opening and each row.
        batch_size: rows in one pass.

    Raises:
        BadInput: the context leaves no room for a row.
    """
    examples = examples_for(backbone, task, rows, 0, targets=False, context=context)
    nothing = torch.zeros(0, backbone.embedding_size, device=backbone.device)
    answers = answer(backbone, PromptBatch.stack([nothing]), examples, task, decode="scores", batch_size=batch_size)
    assert answers.scores is not None
    return answers.scores


def fitted_bias(scores: Float[Tensor, "n c"], right: Sequence[int]) -> Float[Tensor, " c"]:
    """The bias for each class that makes the right labels of these rows likeliest; their sum is 0.

    It undoes what a model prefers whatever the text says (Zhao et al., 2021, arXiv:2102.09690, fit it without labels).
    A small quadratic term keeps it finite where every row is right.
    """
    from scipy.optimize import minimize

    values, classes = scores.double().numpy(), np.asarray(right)

    def loss(bias: np.ndarray) -> tuple[float, np.ndarray]:
        moved = values + bias
        moved = moved - moved.max(1, keepdims=True)
        chances = np.exp(moved) / np.exp(moved).sum(1, keepdims=True)
        picked = chances[np.arange(len(classes)), classes]
        hits = np.eye(values.shape[1])[classes]
        gradient = (chances - hits).mean(0) + 1e-3 * bias
        return float(-np.log(picked + 1e-300).mean() + 5e-4 * bias @ bias), gradient

    found = minimize(loss, np.zeros(values.shape[1]), jac=True, method="L-BFGS-B").x
    return torch.from_numpy(found - found.mean()).float()


def baselines(
    backbone: AbstractBackbone,
    task: Task,
    rows: Rows,
    train: Rows,
    *,
    calibrate: bool = False,
    shots: int = SHOTS,
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
        calibrate: fit a bias for each class, at the cost of 100 rows more for each line.
        shots: examples in context.
        draws: contexts.

    Raises:
        BadInput: a task without labels.
    """
    refuse_no_labels(task)
    right = [int(value) for row in rows if not isinstance(value := gold(task, row), list)]
    most, _ = majority(right)
    found = [_baseline("majority", task, [most] * len(right), right)]
    if backbone.answers == "linear-head":
        return found
    fitted = fitting_rows(train) if calibrate and len(train) else None
    plain = dataclasses.replace(task, instruction="")
    found.append(_asked("frozen", backbone, plain, rows, right, fitted))
    columns = list(rows.columns)
    best = handwritten(task, backbone.kind, columns)
    if best is not None:
        found.append(_asked("instruction", backbone, best, rows, right, fitted))
    if backbone.kind != "decoder" or not len(train):
        return found
    try:
        for draw in range(draws):
            found.append(_with_examples(backbone, best or task, rows, right, train, fitted, shots, draw))
    except BadInput as error:
        log.warning("no examples in context: %s", error.message)
    return found


def _with_examples(
    backbone: AbstractBackbone,
    task: Task,
    rows: Rows,
    right: Sequence[int],
    train: Rows,
    fitted: Rows | None,
    shots: int,
    draw: int,
) -> Baseline:
    """What the model answers behind a few labelled rows.

    Raises:
        BadInput: a class with too few rows, or examples that leave no room for a row.
    """
    examples = drawn_examples(task, train, shots, draw)
    context = written(backbone, task, examples)
    return _asked(f"{len(examples)} examples", backbone, task, rows, right, fitted, context, draw)


def limited(rows: Rows, most: int) -> Rows:
    """The rows, or so many of them drawn by seed 0, in their order."""
    return rows if len(rows) <= most else rows.select(limited_places(len(rows), most))


def limited_places(count: int, most: int) -> list[int]:
    """The places of so many of `count` rows, drawn by seed 0, in their order; all where there are no more."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return list(range(count)) if count <= most else sorted(order[:most])


def fitting_rows(train: Rows) -> Rows:
    """The training rows on which biases are fitted and wordings compared."""
    return limited(train, FITTED_ROWS)


def _asked(
    name: str,
    backbone: AbstractBackbone,
    task: Task,
    rows: Rows,
    right: Sequence[int],
    fitted: Rows | None,
    context: str = "",
    draw: int | None = None,
) -> Baseline:
    """What the model answers to the task as it is put, with an unchanged and a calibrated score."""
    scores = label_scores_of(backbone, task, rows, context)
    calibrated = None
    if fitted is not None:
        bias = fitted_bias(label_scores_of(backbone, task, fitted, context), [int(gold(task, row)) for row in fitted])  # pyright: ignore[reportArgumentType]
        calibrated = score_of(task, (scores + bias).argmax(-1).tolist(), right)
    text = task.opening + context + task.template + ("" if task.cue is None else task.cue)
    return _baseline(name, task, scores.argmax(-1).tolist(), right, text=text, draw=draw, calibrated=calibrated)


def _baseline(name: str, task: Task, predictions: list[int], right: Sequence[int], **more: Any) -> Baseline:
    interval = intervals(task.metrics, task.scores, predictions, list(right)).get("score")
    return Baseline(
        name=name, score=score_of(task, predictions, right), interval=interval, predictions=predictions, **more
    )


def score_of(task: Task, predictions: Sequence[int], right: Sequence[int]) -> float:
    """The task's score of class ids."""
    return headline_score(score(task.metrics, list(predictions), list(right)), task.scores)


def over(task: Task, predictions: Sequence[int], baseline: Baseline, right: Sequence[int]) -> tuple[float, Interval]:
    """How much better predictions score than a baseline on the same rows, and the 95 % interval of that."""
    difference = score_of(task, predictions, right) - baseline.score
    return difference, difference_interval(task.scores, predictions, baseline.predictions, right)
