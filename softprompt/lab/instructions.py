"""A lab task with the instruction that the built-in backbones were taught in pretraining."""

import dataclasses

from ..tasks import Task
from ..tasks import lab_instruction as instruction


def instructed(task: Task) -> Task | None:
    """The task with its instruction before each row; None where there is none."""
    words = instruction(task)
    return None if words is None else dataclasses.replace(task, template=f"{words} {task.template}")
