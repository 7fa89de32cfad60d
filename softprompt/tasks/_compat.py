"""What earlier code does to some tasks, to compare with numbers that were made by it; never a default."""

from typing import Any

from ..errors import BadInput
from ._base import Task

# ATTEMPT and DePT, attempt/data/tasks.py and src/tasks.py: WinoGrande's first option stands in both places, so its
# scores are near chance; STS-B's numbers are rounded to one decimal, not to the nearest 0.2 as in T5.
COMPAT: dict[str, dict[str, Any]] = {
    "winogrande": {"template": "sentence: {sentence} option0: {option1} option1: {option1}"},
    "glue/stsb": {"decimals": 1},
}


def compat_of(task: Task) -> dict[str, Any]:
    """Return the fields that differ from the numeric style.

    Raises:
        BadInput: earlier code does nothing else to this task.
    """
    for begins, changes in COMPAT.items():
        if task.name.startswith(begins):
            return changes
    raise BadInput(f"task {task.name!r} has no style 'compat': earlier code treats it as 'numeric' does; give that")
