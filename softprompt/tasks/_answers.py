"""From the target column to what counts as right, and to the words that a model has to produce."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import BadInput, UnknownName
from ._base import Task, same_text
from ._compat import compat_of
from ._instruct import instruct
from ._labels import place_of_label
from ._numbers import finite_number
from ._patterns import patterned

STYLES = ("numeric", "compat", "words", "instruct", "t5", "pet")


def styled(task: Task, style: str | None) -> Task:
    """The task with the label words and the template of a style; None leaves it as it is.

    "numeric" is what Explosive Prompt Tuning uses (appendix B): the template without prefix, answers "0", "1" ...
    "compat" is "numeric" with what ATTEMPT's and DePT's code does to some tasks (`COMPAT`), for the paper's own numbers
    may hold it; of all other tasks it is "numeric". "words" is the same template with class words. "t5" is T5's own
    prefix, column order and class words. "pet-2" is the task's cloze pattern number 2 of `PATTERNS` with its label
    words, "pet" the first. "instruct" is the wording of `INSTRUCT` for language models: an instruction, a template with
    its cue, and label words.

    Raises:
        UnknownName: another style, or a pattern that the task does not have.
        BadInput: a task that is already in another style than "words", or has no T5 template or no pattern.
    """
    if style is None:
        return task
    kind, _, number = style.partition("-")
    if kind not in STYLES or (kind != "pet" and number):
        raise UnknownName("style", style, STYLES)
    if style == "pet":
        style = "pet-0"
    if style == task.style:
        return task
    if task.style != "words":
        raise BadInput(f"task {task.name!r} is already in style {task.style!r}; style it as it was declared")
    if style in ("numeric", "compat"):
        changes = compat_of(task) if style == "compat" else {}
        return dataclasses.replace(task, style=style, labels=tuple(str(i) for i in range(len(task.labels))), **changes)
    if style == "instruct":
        return instruct(task)
    if kind == "pet":
        return patterned(task, style)
    if not task.t5_template:
        raise BadInput(f"task {task.name!r} has no T5 template; use style 'words' or 'numeric'")
    return dataclasses.replace(task, style=style, template=task.t5_template)


def label_values(task: Task) -> tuple[Any, ...]:
    """The value in the target column for each class id."""
    return task.label_values or tuple(range(len(task.labels)))


def class_of(task: Task, value: Any) -> int:
    """The class id of a value in the target column; `"1"`, 1.0 and `True` are found where 1 is known.

    Raises:
        BadInput: a value outside the known labels.
    """
    known = label_values(task)
    place = place_of_label(known, value)
    if place is not None:
        return place
    if str(value) == "-1":
        raise BadInput("label -1 marks an unlabelled row; leave such rows out")
    blanks = str(value).strip() != str(value) and str(value).strip() in map(str, known)
    hint = "; take the blanks around it off" if blanks else ""
    if same_text(str(value)) in map(same_text, map(str, known)):
        hint = "; it is the same text in another Unicode form, so normalise the file to NFC"
    raise BadInput(f"label {value!r} is not one of {', '.join(map(repr, known))}{hint}")


def gold(task: Task, row: Mapping[str, Any]) -> int | float | list[str]:
    """What counts as right for a row: a class id, a number, or the list of accepted texts.

    Raises:
        UnknownName: the row lacks the target column.
        BadInput: a value that is no label, no finite number, or empty.
    """
    if task.target not in row:
        raise UnknownName("column", task.target, row)
    value = row[task.target]
    # A value that is not itself is NaN: what pandas and Parquet hold where a cell is empty.
    if value is None or value in ("", []) or value != value:
        raise BadInput(f"column {task.target!r} is empty")
    if task.answer == "label":
        return class_of(task, value)
    if task.answer == "number":
        return _number(task, value)
    return [_text(task, part) for part in (value if isinstance(value, list | tuple) else [value])]


def _text(task: Task, value: Any) -> str:
    """An accepted answer."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise BadInput(f"column {task.target!r} holds an empty answer")
    if not isinstance(value, str | int | float):
        raise BadInput(
            f"column {task.target!r} holds a {type(value).__name__}, text is needed; a field of an object is a column "
            f"of its own, as {task.target}.text"
        )
    return str(value)


def _number(task: Task, value: Any) -> float:
    number = finite_number(value)
    if number is None:
        raise BadInput(f"column {task.target!r} holds {value!r}, a finite number is needed")
    return number


def answer_text(task: Task, right: int | float | list[str]) -> str:
    """The words that a model has to produce for a gold value: label word, number, or first accepted text.

    A number has the task's decimals, or is rounded to the nearest 0.2, as T5 does for STS-B ("3.8").
    """
    if isinstance(right, list):
        return right[0]
    if task.answer == "number" and task.decimals is not None:
        # Plus 0, for what is rounded to -0 is written 0.
        return f"{round(float(right), task.decimals) + 0.0:.{task.decimals}f}"
    if task.answer == "number":
        return f"{round(right * 5) / 5:.1f}"
    return task.labels[int(right)]
