"""Prompts asked the tasks of the others (EPT, figure 10)."""

from typing import Any

from ...errors import BadInput
from ._base import Analysis, Values, short
from ._bench import Bench


def compute(bench: Bench) -> Values:
    """The score of each prompt on each task: those of the prompts, and `tasks`."""
    bench.refuse_mixed("transfer")
    tasks = list(dict.fromkeys([*(subject.task.name for subject in bench.subjects), *bench.tasks]))
    if len(tasks) < 2:
        raise BadInput("transfer needs two tasks or more; give prompts of several, or further ones with --task")
    prompts = [
        {
            "prompt": subject.label,
            "task": subject.task.name,
            "scores": [
                bench.score(subject, subject.prompt, None if name == subject.task.name else name) for name in tasks
            ],
        }
        for subject in bench.subjects
    ]
    return {"tasks": tasks, "rows": bench.rows, "prompts": prompts}


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
