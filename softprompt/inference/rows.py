"""The rows of a task as a model reads them beside a prompt, and how much of a text has room there."""

import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..backbones import AbstractBackbone, refuse_no_room
from ..data import LONGER, Examples, TextFormat, tokenize
from ..errors import BadInput
from ..tasks import Task
from .decoding import before_answer, label_ids
from .scoring import NEW_TOKENS

log = logging.getLogger("softprompt")


def answer_positions(backbone: AbstractBackbone, task: Task) -> int:
    """Positions that an answer takes beside prompt and text: a decoder's, of the longest label or what is written."""
    if task.answer == "label" and backbone.answers != "linear-head":
        return backbone.answer_positions(label_ids(backbone, task))
    return backbone.answer_positions([[0] * (NEW_TOKENS + 1)])


def text_limit(backbone: AbstractBackbone, prompt_length: int, task: Task) -> int:
    """Tokens of text that fit beside a prompt and its answer: the task's length, or what the positions leave.

    What the prompt holds of a row (`Task.opening_ids`) counts to the text here, as in a hand-written input.

    Raises:
        BadInput: the prompt leaves no room.
    """
    if backbone.max_positions is None:
        return task.max_length
    answer = answer_positions(backbone, task)
    room = backbone.max_positions - prompt_length - answer
    is_label = task.answer == "label"
    refuse_no_room(prompt_length, room, backbone.max_positions, backbone.name, answer if is_label else 0)
    return min(task.max_length, room + len(task.opening_ids))


def text_format(backbone: AbstractBackbone, task: Task, context: str = "") -> TextFormat:
    """How a backbone reads this task; `context` stands between the task's opening and each row."""
    return TextFormat(
        tokenizer=backbone.tokenizer,
        answers=backbone.answers,
        encode_answers=partial(backbone.encode_answers, behind=before_answer(backbone, task)),
        prefix=backbone.input_prefix + task.opening + context,
        turn=backbone.input_prefix,
        suffix=backbone.suffix(task.cue),
        mask=backbone.mask,
        special_tokens=backbone.special_tokens,
    )


def examples_for(
    backbone: AbstractBackbone,
    task: Task,
    rows: Any,
    prompt_length: int,
    *,
    targets: bool = True,
    context: str = "",
    places: Sequence[str] | None = None,
    cache: bool = True,
) -> Examples:
    """Rows tokenised for a backbone, cut to the task's length and to what fits beside the prompt.

    Args:
        backbone: frozen.
        task: how rows are put.
        rows: with the task's columns.
        prompt_length: positions of the prompt.
        targets: whether rows hold answers.
        context: stands between the task's opening and each row; its tokens come on top of the task's length.
        places: what each row is called in messages; None takes its number in its file.
        cache: whether the tokens are kept on the disk for rows that come again.

    Raises:
        BadInput: label words that the backbone cannot tell apart, a context for which rows lose more of their text
            than without it; and as in `tokenize`.
    """
    if task.answer == "label":
        # This check comes before the rows are read, and also applies to rows without answers.
        label_ids(backbone, task)
    asked = _longer(task, backbone, context)
    limit = text_limit(backbone, prompt_length, asked)
    refuse_long_instruction(backbone, task, limit)
    examples = tokenize(
        rows,
        task,
        text_format(backbone, task, context),
        max_length=limit,
        longer=LONGER if limit == asked.max_length else _no_longer(backbone),
        cache=cache,
        targets=targets,
        places=places,
    )
    if context and examples.truncated and limit < asked.max_length:
        # The answer to the first words of a row is none to the row.
        raise BadInput(
            f"{examples.truncated} of {len(examples)} rows would be cut to fewer tokens behind the examples than they "
            f"are alone; {_no_longer(backbone)}"
        )
    return examples


def refuse_long_instruction(backbone: AbstractBackbone, task: Task, limit: int) -> None:
    """Refuse an instruction beside which no text fits; a row is cut, its instruction never.

    Raises:
        BadInput: with what to do.
    """
    if not task.instruction:
        return
    tokens = len(backbone.tokenizer(task.opening, add_special_tokens=False, verbose=False).input_ids)
    if tokens >= limit:
        raise BadInput(
            f"the instruction is {tokens} tokens long, and a row may have {limit} with it; shorten --instruction, or "
            "raise --max-length where the model has the positions"
        )


def _no_longer(backbone: AbstractBackbone) -> str:
    """What is to be done where a row needs more positions than the model has."""
    return f"{backbone.name!r} has {backbone.max_positions} positions in all: give shorter texts, or a model with more"


def _longer(task: Task, backbone: AbstractBackbone, context: str) -> Task:
    """The task with room for a context besides."""
    if not context:
        return task
    tokens = len(backbone.tokenizer(context, add_special_tokens=False, verbose=False).input_ids)
    return dataclasses.replace(task, max_length=task.max_length + tokens)


def tell_truncated(examples: Examples, what: str) -> None:
    """Warn where rows are longer than the model reads them.

    Args:
        examples: the rows.
        what: what they are called, as in "test rows".
    """
    if examples.truncated:
        log.warning(
            "%d of %d %s (%.0f %%) are longer than the %d tokens that are read, and are cut: the end is not seen; "
            "shorten them, or train with a longer --max-length where the model has the positions",
            examples.truncated, len(examples), what, 100 * examples.truncated / len(examples),
            int(examples.lengths.max()),
        )  # fmt: skip
