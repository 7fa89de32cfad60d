"""What a plan leaves to the frozen model, decided once that is loaded."""

import dataclasses

from ..backbones import AbstractBackbone
from ..data import Rows
from ..inference.scoring_rule import with_loss
from ._plan import Plan
from .beginnings.auto import with_beginnings
from .beginnings.words import with_opening


def decided(plan: Plan, rows: Rows, backbone: AbstractBackbone) -> Plan:
    """The plan with nothing left open: how long an input is, how prompts begin, at what rates, and what is minimised.

    Args:
        plan: as it was asked for, its task as a model of this kind is asked it.
        rows: the training rows.
        backbone: the frozen model.

    Raises:
        SoftPromptError: a prompt that cannot begin so, or a loss that this model cannot have.
    """
    task, settings = plan.task, plan.settings
    if settings.max_length is not None:
        task = dataclasses.replace(task, max_length=settings.max_length)
    plan = dataclasses.replace(
        plan,
        task=task,
        prompts=with_beginnings(plan.prompts, task, backbone),
        settings=with_loss(settings, task, backbone),
    )
    return with_opening(plan, rows, backbone)
