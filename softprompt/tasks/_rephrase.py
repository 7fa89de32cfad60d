"""A task in words of the user's own: another instruction, template or label words."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import require_kind
from ..errors import BadInput
from ._answers import label_values
from ._base import Task
from ._labels import label_words_of
from ._template import template_columns, template_tail

OWN_STYLE = "own"


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What a user says instead of the task's own words; None leaves it as it is.

    Args:
        instruction: stands on a line before the text of each row; "" is none.
        template: text with {column} fields. Where it ends in words, they are the cue, and nothing is put between them
            and the answer.
        label_words: by label, or in the order of the labels.
    """

    instruction: str | None = None
    template: str | None = None
    label_words: Mapping[Any, str] | Sequence[str] | None = None

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return any(part is not None for part in (self.instruction, self.template, self.label_words))


def words_of(instruction: str) -> str:
    """An instruction without blanks around it.

    Raises:
        BadInput: it is no text.
    """
    require_kind("instruction", instruction, str)
    return instruction.strip()


def rephrased(task: Task, wording: Wording) -> Task:
    """The task in these words; the same task where the wording says nothing.

    Raises:
        BadInput: a template without a column or with the answer's, label words of another number than labels, empty or
            equal, or any of a task that has no labels.
        UnknownName: a word for a label that does not exist.
    """
    if not wording:
        return task
    changes: dict[str, Any] = {"style": OWN_STYLE}
    if wording.instruction is not None:
        changes["instruction"] = words_of(wording.instruction)
    if wording.template is not None:
        template = without_last_blanks(wording.template)
        refuse_template(template, task.target)
        changes |= {"template": template, "cue": cue_of(template)}
        # A column that the template does not show can be neither shortened nor read in windows.
        shown = template_columns(template)
        changes["truncate"] = tuple(name for name in task.truncate if name in shown)
        changes["window"] = task.window if task.window in shown else ""
    if wording.label_words is not None:
        if task.answer != "label":
            raise BadInput(f"task {task.name!r} is answered by a {task.answer} and has no label words; leave them out")
        changes["labels"] = label_words_of(label_values(task), wording.label_words)
    return dataclasses.replace(task, **changes)


def without_last_blanks(template: str) -> str:
    """The template without blanks at its end: the blank before an answer belongs to the answer's first token."""
    return template.rstrip(" \t")


def cue_of(template: str) -> str | None:
    """The cue of a task with this template: none beside the words that the template ends in."""
    return "" if template_tail(template).strip() else None


def refuse_template(template: str, target: str) -> None:
    """Refuse a template that shows the model nothing of a row, or the answer.

    Raises:
        BadInput: with what to do.
    """
    columns = template_columns(template)
    if not columns:
        raise BadInput(f"template {template!r} reads no column; write one as {{column}}")
    if target in columns:
        raise BadInput(f"column {target!r} is the answer; the template must not show it to the model")
