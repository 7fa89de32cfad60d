"""What earlier code does to some tasks, to compare with numbers that were made by it; never a default."""

from typing import Any

from ._base import Task

# ATTEMPT and DePT, attempt/data/tasks.py and src/tasks.py: WinoGrande's first option stands in both places, so its
# scores are near chance; STS-B's numbers are rounded to one decimal, not to the nearest 0.2 as in T5.
COMPAT: dict[str, dict[str, Any]] = {
    "winogrande": {"template": "sentence: {sentence} option0: {option1} option1: {option1}"},
    "glue/stsb": {"decimals": 1},
}


def compat_of(task: Task) -> dict[str, Any]:
    """Return the fields that differ from the numeric style; none for a task that earlier code puts as that does."""
    return next((changes for begins, changes in COMPAT.items() if task.name.startswith(begins)), {})
