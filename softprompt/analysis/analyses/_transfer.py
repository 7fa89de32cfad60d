"""Prompts asked the tasks of the others (EPT, figure 10)."""

from typing import Any

from ...errors import BadInput
from ...tasks import Task, TaskNames
from ._base import Analysis, Values, short
from ._bench import Bench


def compute(bench: Bench) -> Values:
    """The score of each prompt on each task: those of the prompts, and `tasks`."""
    bench.refuse_mixed("transfer")
    names = TaskNames(subject.task for subject in bench.subjects)
    # A task of a prompt is asked as it was trained, on its own rows; others are known by their names alone.
    asked: dict[str, Task | str] = {names.of(subject.task): subject.task for subject in bench.subjects}
    asked |= {name: name for name in bench.tasks if name not in asked}
    if len(asked) < 2:
        raise BadInput("transfer needs two tasks or more; give prompts of several, or further ones with --task")
    prompts = [
        {
            "prompt": subject.label,
            "task": names.of(subject.task),
            "scores": [
                bench.score(subject, subject.prompt, None if name == names.of(subject.task) else task)
                for name, task in asked.items()
            ],
        }
        for subject in bench.subjects
    ]
    return {"tasks": list(asked), "rows": bench.rows, "prompts": prompts}


def draw(values: Values, figures: Any) -> Any:
    """A matrix of prompts by tasks."""
    names = short(values)
    return figures.matrix_figure([p["scores"] for p in values["prompts"]], names, values["tasks"], label="score")


def rows(values: Values) -> list[dict[str, Any]]:
    """A row for each prompt."""
    return [
        {"prompt": p["prompt"], "trained on": p["task"], **dict(zip(values["tasks"], p["scores"], strict=True))}
        for p in values["prompts"]
    ]


TRANSFER = Analysis("each prompt on the tasks of the others (EPT, figure 10)", compute, draw, rows)
