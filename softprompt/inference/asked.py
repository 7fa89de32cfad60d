"""How a task is put to a model of a kind: the style that is its default, the user's own words, a prompt's own task."""

import dataclasses
from pathlib import Path

from ..errors import BadInput
from ..prompts.tuned import Stored
from ..tasks import (
    INSTRUCT,
    TASKS,
    Source,
    Task,
    Wording,
    foreign,
    in_lines,
    is_data_file,
    open_ended,
    refuse_unregistered,
    rephrased,
    styled,
)
from ..tasks import task as find_task


def default_style(task: Task, kind: str) -> str:
    """How declared tasks are put: numeric answers for encoder-decoders, as in the EPT paper; "instruct" for decoders.

    Encoders answer in words. So do all models of the lab on its tasks: they know those, and no digits; and its tasks
    are to be learned without their instruction.
    """
    if kind == "encoder-decoder" and not task.source.world:
        return "numeric"
    return "instruct" if kind == "decoder" and task.name in INSTRUCT else "words"


def worded_for(task: Task, kind: str, style: str | None = None, wording: Wording | None = None) -> Task:
    """The task as a model of this kind is asked it.

    Args:
        task: as it was declared, or as a user made it.
        kind: of backbone.
        style: as in `styled`; None is the default of the kind for a task in TASKS, and leaves other words as they are.
        wording: the user's own words, in the place of the style's.

    Raises:
        UnknownName: no such style, or a word for a label that does not exist.
        BadInput: as in `styled` and `rephrased`.
    """
    if style is not None:
        task = styled(task, style)
    elif task.name in TASKS and task.style == "words":
        default = default_style(task, kind)
        # What a program changed in a task is meant, whatever the model's kind would have.
        if default != "instruct" or _is_as_declared(task):
            task = styled(task, default)
    elif kind == "decoder":
        task = in_lines(task)
    task = rephrased(task, wording or Wording())
    return open_ended(task) if kind == "decoder" else task


def before_model(task: Task, style: str | None = None, wording: Wording | None = None) -> Task:
    """The task as far as it is known before the model's kind is: enough to read its rows, and to refuse them early.

    Args:
        task: as in `worded_for`.
        style: as in `worded_for`; None leaves the task as it is.
        wording: as in `worded_for`.

    Raises:
        UnknownName: as in `worded_for`.
        BadInput: as in `worded_for`.
    """
    return rephrased(styled(task, style), wording or Wording())


def _is_as_declared(task: Task) -> bool:
    declared = TASKS[task.name]
    return (task.template, task.labels) == (declared.template, declared.labels)


def task_of(
    prompt: Stored,
    task: "Task | str | None" = None,
    style: str | None = None,
    wording: Wording | None = None,
) -> Task:
    """The task to answer: the one given, or the one that the prompt was trained on.

    The prompt's own task by its name keeps the style it was trained in; another takes `style`, or the default of the
    prompt's kind of backbone. The name of a file is the prompt's own task on the rows of that file. `wording` replaces
    words of it.

    Raises:
        BadInput: the prompt records no task and none is given, a file whose answers it was not trained on, or a task
            whose preparation is not registered.
    """
    trained_on = None if prompt.provenance.task is None else Task.from_json(prompt.provenance.task)
    if trained_on is not None and prompt.provenance.is_foreign:
        trained_on = foreign(trained_on)
    chosen = _chosen_task(prompt, trained_on, task, style, wording or Wording())
    refuse_unregistered(chosen.prepare)
    # What the prompt begins with is in its vectors, whatever task it answers.
    return chosen if trained_on is None else dataclasses.replace(chosen, opening_ids=trained_on.opening_ids)


def _chosen_task(
    prompt: Stored, trained_on: Task | None, task: "Task | str | None", style: str | None, wording: Wording
) -> Task:
    kind = prompt.provenance.backbone.kind
    if isinstance(task, Task):
        return rephrased(task if style is None else worded_for(task, kind, style), wording)
    if task is not None and is_data_file(task):
        rows = _on_file(trained_on, task)
        return rephrased(rows if style is None else worded_for(rows, kind, style), wording)
    if trained_on is not None and style is None and task in (None, trained_on.name):
        return rephrased(trained_on, wording)
    name = trained_on.name if task is None and trained_on is not None else task
    if name is None:
        raise BadInput("this prompt records no task; name one with --task")
    if style is None and trained_on is not None and kind == "decoder" and trained_on.style == "words":
        # It was trained before decoders had a style of their own.
        style = "words"
    if trained_on is not None and name == trained_on.name and name not in TASKS and trained_on.source.is_own:
        raise BadInput(
            f"task {name!r} is of your own rows, which have no style {style!r}; leave --style out, and give --template "
            "or --label-words for other words"
        )
    return worded_for(find_task(name), kind, style, wording)


def _on_file(trained_on: Task | None, file: str) -> Task:
    """A prompt's own task on a file: as it is where it is made of that file, else with all its rows to be scored."""
    if trained_on is None:
        raise BadInput(f"this prompt records no task that {file!r} could hold rows of; give one by its name")
    paths = [Path(path).resolve() for path in trained_on.source.every_path]
    if Path(file).resolve() in paths:
        return trained_on
    if not Path(file).is_file():
        raise BadInput(f"no file {file!r}; give one that exists, or leave --task out to answer {trained_on.name!r}")
    return dataclasses.replace(trained_on, source=Source(files={"test": file}))
