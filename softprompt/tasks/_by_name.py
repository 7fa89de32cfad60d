"""Labels that a `datasets.Dataset` numbers, each table in its own order: a class is known by its name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import BadInput
from ._answers import label_values
from ._base import Task
from ._memory import is_a
from ._table import TASKS


def class_names(given: Any, column: str) -> list[str]:
    """The names of the classes of a column, where a `datasets.Dataset` tells them."""
    if not is_a(given, "datasets", "Dataset"):
        return []
    return list(getattr(given.features.get(column), "names", None) or [])


def by_name(task: Task, rows: Mapping[str, Any]) -> Task:
    """The task with each split's labels as those of its training rows that are called alike.

    Numbers stay as they are where nothing says what the task's classes are called.

    Args:
        task: with its rows in memory.
        rows: split -> these rows as the user gave them.

    Raises:
        BadInput: a split none of whose classes is called as one of the task's.
    """
    if task.answer != "label":
        return task
    memory = dict(task.source.memory)
    for split, given in rows.items():
        values = _values_by_id(task, class_names(given, task.target), split)
        if any(values[number] != number for number in values):
            memory[split] = memory[split].relabelled(task.target, values)
    return dataclasses.replace(task, source=dataclasses.replace(task.source, memory=memory))


def _values_by_id(task: Task, names: list[str], split: str) -> dict[Any, Any]:
    """The number of each class -> the task's value for the class of this name, or the name where the task has none."""
    for called in _called(task):
        if set(called) & set(names):
            values = dict(zip(called, label_values(task), strict=True))
            # In words: a bare name such as "1" could be another class's value.
            return {number: values.get(name, f"class {name!r}") for number, name in enumerate(names)}
    if names and task.class_names:
        raise BadInput(
            f"the classes of the {split} rows are called {', '.join(map(repr, names))}, those that the task was made "
            f"with {', '.join(map(repr, task.class_names))}; give the labels the same names, or as plain numbers: "
            f"rows.cast_column({task.target!r}, datasets.Value('int64'))"
        )
    return {}


def _called(task: Task) -> list[tuple[str, ...]]:
    """What the task's classes may be called, by class id: the likeliest first."""
    if task.class_names:
        return [task.class_names]
    values = label_values(task)
    texts = [tuple(values)] if all(isinstance(value, str) for value in values) else []
    words = _class_words(task)
    # Numbers in words say nothing of how a table calls its classes.
    return [*texts, *([words] if words and not any(word.isdigit() for word in words) else [])]


def _class_words(task: Task) -> tuple[str, ...]:
    """The words that say what each class is, also of a declared task in another style; none where nothing says it."""
    if task.style == "words":
        return task.labels
    declared = TASKS.get(task.name)
    # A user's own task may have the same name.
    if declared is None or (declared.target, declared.label_values) != (task.target, task.label_values):
        return ()
    return declared.labels
