"""How the runs of a study ask a task that was named to a model, and the style that is part of their names."""

from ..settings import ModelSpec
from ..tasks import TASKS, Task, Wording


def task_and_style(
    task: Task, model: ModelSpec, style: str | None = None, wording: Wording | None = None
) -> tuple[Task, str | None]:
    """The task and the style of runs, of which the style is part of their names. A run without one is in style "words".

    Args:
        task: as it was named, or made of a user's rows.
        model: whose kind decides how a declared task is asked.
        style: the user's; None is the default of the model's kind for a task in TASKS, and of a user's rows what
            `train` has a decoder read, a line for each column.
        wording: the user's own words. A task that has them is asked as it is: its runs have no style.

    Raises:
        UnknownName: no such style, or a word for a label that does not exist.
        BadInput: the style or the words do not fit the task.
    """
    if not wording and (style is not None or not (task.name in TASKS or task.source.is_own)):
        return task, style
    from ..backbones import kind_of_spec
    from ..inference.asked import default_style, worded_for

    kind = kind_of_spec(model)
    if wording or task.source.is_own:
        return worded_for(task, kind, style, wording), None
    return task, "instruct" if default_style(task, kind) == "instruct" else None
