"""How a task is answered: by label words that are scored, by text that is generated, or by a number from a head."""

from collections.abc import Sequence
from typing import Literal, get_args

from ..backbones import AbstractBackbone, prefix_pair, refuse_unknown_normalization
from ..errors import BadInput, UnknownName
from ..tasks import Task

Decode = Literal["auto", "scores", "generate"]
# How an answer is found: label words are scored, text is generated, a head gives a number.
Way = Literal["scores", "generate", "number"]


def decoding(task: Task, backbone: AbstractBackbone, decode: Decode) -> Way:
    """How answers are found: "auto" scores label words and generates what has none; a linear head gives numbers.

    Raises:
        UnknownName: a way that does not exist.
        BadInput: labels cannot be scored because the task has none; a head that shall do anything but answer.
    """
    if decode not in get_args(Decode):
        raise UnknownName("way to decode", decode, get_args(Decode))
    if backbone.answers == "linear-head" and task.answer == "number":
        if decode != "auto":
            raise BadInput(
                f"task {task.name!r} is answered with a number by a head, not by {decode}; leave --decode out"
            )
        return "number"
    refuse_decoding(task, decode, backbone.answers)
    if task.answer == "label":
        return "scores" if decode == "auto" else decode
    return "generate"


def refuse_decoding(task: Task, decode: Decode, answers: str | None = None) -> None:
    """Refuse to score the label words of a task that has none.

    Args:
        task: the task.
        decode: how answers are wanted.
        answers: how the backbone answers; None where that is not known yet: a linear head answers numbers by itself.

    Raises:
        BadInput: there are no label words.
    """
    by_head = task.answer == "number" and answers in (None, "linear-head")
    if decode == "scores" and task.answer != "label" and not by_head:
        raise BadInput(f"task {task.name!r} is answered by a {task.answer}, there are no label words to score")


def refuse_idle_normalization(normalize: str, task: Task, decode: Decode, answers: str) -> None:
    """Refuse a score of label words where none are scored, or one that does not exist.

    Args:
        normalize: how the user wants label words scored.
        task: the task.
        decode: how answers are found.
        answers: how the backbone answers.

    Raises:
        UnknownName: no such score.
        BadInput: a linear head answers, or text that is written.
    """
    refuse_unknown_normalization(normalize)
    has_head = answers == "linear-head"
    if has_head or task.answer != "label" or decode == "generate":
        raise BadInput(
            f"--normalize={normalize} is about scores of label words, and here "
            f"{'a linear head' if has_head else 'the text that is written'} answers; leave it out"
        )


def before_answer(backbone: AbstractBackbone, task: Task) -> str:
    """The text right before the answer of every row: the end of the template, the cue, what closes a turn."""
    return task.tail + backbone.suffix(task.cue)


def label_ids(backbone: AbstractBackbone, task: Task, *, end: bool = True) -> list[list[int]]:
    """Token ids of the task's label words as they follow its text.

    Args:
        backbone: the frozen model.
        task: the task.
        end: whether the end of sequence belongs to a label, where the model emits one.

    Raises:
        SoftPromptError: as in `AbstractBackbone.encode_distinct`.
        BadInput: one label is the beginning of another, which could not win without an end.
    """
    rows = backbone.encode_distinct(task.labels, before_answer(backbone, task))
    if end:
        return rows
    rows = [row[:-1] if row[-1] in backbone.ends else row for row in rows]
    refuse_prefixes(rows, backbone)
    return rows


def refuse_prefixes(rows: Sequence[Sequence[int]], backbone: AbstractBackbone) -> None:
    """Refuse labels of which one is the beginning of another.

    Raises:
        BadInput: naming both labels.
    """
    if (pair := prefix_pair(rows)) is not None:
        short, long = (repr(backbone.tokenizer.decode(list(row)).strip()) for row in pair)
        raise BadInput(
            f"the label {short} is the beginning of {long}, and this prompt scores labels without an end of sequence: "
            "the shorter one would always win; choose other --label-words, or a prompt trained with --loss=tokens"
        )
