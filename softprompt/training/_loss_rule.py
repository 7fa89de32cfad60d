"""From the settings of a run to its task loss."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..backbones import AbstractBackbone
from ..data import Examples
from ..errors import BadInput
from ..inference.decoding import label_ids
from ..inference.scoring import Scoring
from ..inference.scoring_rule import scoring_for, with_loss
from ..prompts.tuned import Stored
from ..settings import BALANCED, TrainSettings
from ..tasks import Task
from .objectives import BothLoss, LabelLoss, TaskLoss, TokenLoss, Weighted


def task_loss(settings: TrainSettings, task: Task, backbone: AbstractBackbone, train: Examples) -> TaskLoss:
    """The task loss of a row.

    The classes of a linear head are its only outputs, so that there labels and tokens are the same.

    Args:
        settings: what the prompts share.
        task: the task.
        backbone: the frozen model.
        train: the training rows, over which classes are balanced.
    """
    settings = with_loss(settings, task, backbone)
    loss: TaskLoss = TokenLoss(settings.label_smoothing or 0.0)
    if settings.loss in ("labels", "both") and backbone.answers != "linear-head":
        labels = label_ids(backbone, task, end=scoring_for(settings, task, backbone).end)
        kind = LabelLoss if settings.loss == "labels" else BothLoss
        loss = kind(labels, settings.normalize, settings.label_smoothing or 0.0)
    if settings.class_weights:
        loss = Weighted(loss, _weights(settings.class_weights, train.gold, len(task.labels)))
    return loss


def trained_loss(prompt: Stored, task: Task, backbone: AbstractBackbone) -> TaskLoss:
    """The task loss that a stored prompt was trained with, without class weights and label smoothing.

    A prompt of an earlier version does not name its loss. If its labels are scored without an end of sequence, it was
    trained on them.

    Args:
        prompt: a stored prompt.
        task: what it answers.
        backbone: the frozen model.
    """
    scoring = Scoring.of(prompt)
    kind = prompt.provenance.training.get("loss", "tokens" if scoring.end else "labels")
    if kind == "tokens" or task.answer != "label" or backbone.answers == "linear-head":
        return TokenLoss()
    return (LabelLoss if kind == "labels" else BothLoss)(label_ids(backbone, task, end=scoring.end), scoring.normalize)


def refuse_loss(settings: TrainSettings, task: Task) -> None:
    """Refuse a loss that this task, or the way in which it is answered, does not have.

    Raises:
        BadInput: with what to do.
    """
    answered = f"task {task.name!r} is answered by a {task.answer}"
    if task.answer != "label":
        options: dict[str, Any] = {
            "--class-weights": settings.class_weights,
            "--calibrate": settings.calibrate,
            f"--loss={settings.loss}": settings.loss in ("labels", "both"),
            "--label-smoothing": settings.label_smoothing and task.answer == "number",
        }
        for option, given in options.items():
            if given:
                raise BadInput(f"{option} is for tasks with label words, and {answered}; leave it out")
        return
    if settings.decode == "generate":
        for option, given in {"--loss=labels": settings.loss == "labels", "--calibrate": settings.calibrate}.items():
            if given:
                raise BadInput(
                    f"{option} is about scores of the label words, and --decode=generate has the model write its "
                    "answer; leave one of them out"
                )
    if settings.loss == "both" and settings.normalize == "first":
        raise BadInput("--loss=both needs all tokens of a label; give --normalize sum or mean, or --loss=labels")
    _refuse_weights(settings, len(task.labels))


def _refuse_weights(settings: TrainSettings, classes: int) -> None:
    if settings.class_weights == BALANCED:
        if settings.shots or settings.shots_per_class:
            raise BadInput(
                "--class-weights=balanced: few-shot draws take classes in equal numbers already; leave it out"
            )
    elif settings.class_weights:
        given = len(settings.class_weights.split(","))
        if given != classes:
            raise BadInput(f"--class-weights has {given} numbers, the task has {classes} labels; give one for each")


def _weights(text: str, gold: Sequence[Any], classes: int) -> tuple[float, ...]:
    """The weight of each class: as given, or rows / (classes x rows of the class), so that each class counts alike."""
    if text != BALANCED:
        return tuple(map(float, text.split(",")))
    counts = Counter(gold)
    return tuple(len(gold) / (classes * counts[c]) if counts[c] else 0.0 for c in range(classes))
