"""How label words are scored in a run: one rule for its prompts and for what they are compared with."""

import dataclasses
from typing import Literal

from ..backbones import AbstractBackbone, prefix_pair
from ..settings import TrainSettings
from ..tasks import Task
from .decoding import label_ids
from .scoring import Scoring

# Beginnings of labels that a row is read with, for a loss over labels that costs no more than one over tokens.
MOST_BEGINNINGS = 8


def auto_loss(task: Task, backbone: AbstractBackbone, settings: TrainSettings) -> Literal["tokens", "labels", "both"]:
    """What --loss=auto stands for: a decoder that chooses among label words learns this choice, others learn tokens.

    It is the loss that did better on the lab models of each kind (docs/log.md). A decoder that generates its answers
    has to learn to write them, and many labels of several tokens would cost more than the tokens do. Where this rule
    changes, `study.RunSpec.numbers` has to tell earlier runs from later ones.
    """
    if task.answer != "label" or backbone.kind != "decoder" or settings.decode == "generate":
        return "tokens"
    beginnings = {tuple(label[:-1]) for label in _without_end(backbone, task)}
    return "labels" if len(beginnings) <= MOST_BEGINNINGS else "tokens"


def with_loss(settings: TrainSettings, task: Task, backbone: AbstractBackbone) -> TrainSettings:
    """The settings with the loss that "auto" stands for; a run's record holds it."""
    return (
        settings if settings.loss != "auto" else dataclasses.replace(settings, loss=auto_loss(task, backbone, settings))
    )


def scoring_for(settings: TrainSettings, task: Task, backbone: AbstractBackbone) -> Scoring:
    """How prompts of a run answer: label words without an end of sequence where the loss is over labels and needs none.

    The end tells no label from another, and the log-probability of an end differs from label to label. Only where one
    label is the beginning of another, the end belongs to both.
    """
    if task.answer != "label" or backbone.answers == "linear-head":
        return Scoring(max_new_tokens=settings.max_new_tokens)
    settings = with_loss(settings, task, backbone)
    with_end = settings.loss != "labels"
    if not with_end:
        with_end = prefix_pair(_without_end(backbone, task)) is not None
    return Scoring(
        end=with_end,
        normalize=settings.normalize,
        decode="generate" if settings.decode == "generate" else "auto",
        max_new_tokens=settings.max_new_tokens,
    )


def _without_end(backbone: AbstractBackbone, task: Task) -> list[list[int]]:
    """Token ids of the label words, one of which may be the beginning of another."""
    return [row[:-1] if row[-1] in backbone.ends else row for row in label_ids(backbone, task)]
