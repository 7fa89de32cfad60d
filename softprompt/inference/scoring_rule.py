"""How label words are scored in a run: one rule for its prompts and for what they are held against."""

import dataclasses
from typing import Literal

from ..backbones import AbstractBackbone, prefix_pair
from ..settings import TrainSettings
from ..tasks import Task
from .answers import label_ids
from .scoring import Scoring


def auto_loss(task: Task, backbone: AbstractBackbone, settings: TrainSettings) -> Literal["tokens", "labels", "both"]:
    """What --loss=auto stands for: the loss of the papers, until a measured comparison says otherwise.

    Where this changes, `study.RunSpec.numbers` has to tell runs of before from runs after.
    """
    return "tokens"


def with_loss(settings: TrainSettings, task: Task, backbone: AbstractBackbone) -> TrainSettings:
    """The settings with the loss that "auto" stands for; a run's record holds it."""
    return (
        settings if settings.loss != "auto" else dataclasses.replace(settings, loss=auto_loss(task, backbone, settings))
    )


def scoring_for(settings: TrainSettings, task: Task, backbone: AbstractBackbone) -> Scoring:
    """How the label words are scored: without an end of sequence where the loss is over labels and needs none.

    The end tells no label from another, and the log-probability of an end differs from label to label. Only where one
    label is the beginning of another, the end belongs to both.
    """
    if task.answer != "label" or backbone.answers == "linear-head":
        return Scoring()
    settings = with_loss(settings, task, backbone)
    with_end = settings.loss != "labels"
    if not with_end:
        rows = label_ids(backbone, task)
        with_end = prefix_pair([row[:-1] if row[-1] in backbone.ends else row for row in rows]) is not None
    return Scoring(end=with_end, normalize=settings.normalize)
