"""Windows over a long column: the rest of a row stays whole, and every part of the column is read in some window."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import BadInput
from ..tasks import Task
from ._examples import Gold

Row = Mapping[str, Any]
# Tokens that are kept free, because a text may have a few tokens more at the borders of a window than inside a row.
MARGIN = 4
# A window below this many tokens holds too little of a context to find an answer in.
SMALLEST = 16


def windows(
    rows: Sequence[Row],
    named: Sequence[str],
    task: Task,
    encode: Callable[..., Any],
    length: Callable[[Row], int],
    limit: int,
    longer: str,
) -> list[list[Row]]:
    """The windows of each row: copies whose column `task.window` holds a part of the text.

    A row that fits whole has one window. Neighbouring windows share `task.stride` tokens.

    Args:
        rows: with the task's columns.
        named: what each row is called in messages.
        task: names the column and the shared tokens.
        encode: the tokenizer, without special tokens and with offsets.
        length: tokens of a row as the model reads it, template, special tokens and all.
        limit: tokens that are allowed.
        longer: what is to be done where more are needed, for messages.

    Raises:
        BadInput: the other columns leave less than 16 tokens for the window.
    """
    column = task.window
    offsets = encode([str(row[column]) for row in rows])["offset_mapping"]
    around: dict[str, int] = {}
    cut: list[list[Row]] = []
    for place, row, spans in zip(named, rows, offsets, strict=True):
        rest = {**row, column: ""}
        key = task.render(rest).text
        if key not in around:
            around[key] = length(rest)
        room = limit - around[key] - MARGIN
        if len(spans) <= room:
            cut.append([row])
            continue
        if room < SMALLEST:
            raise BadInput(
                f"{place}: {around[key]} of {limit} tokens are taken before column {column!r} begins; {longer}"
            )
        text = str(row[column])
        cut.append([{**row, column: text[start:end]} for start, end in _pieces(spans, room, task.stride)])
    return cut


def _pieces(spans: Sequence[tuple[int, int]], room: int, stride: int) -> list[tuple[int, int]]:
    """Characters of each window over tokens with these spans."""
    step = max(1, room - min(stride, room // 2))
    starts = range(0, max(1, len(spans) - room + step), step)
    return [(spans[start][0], spans[min(start + room, len(spans)) - 1][1]) for start in starts]


def window_with_answer(column: str, cut: Sequence[Row], gold: Gold) -> int:
    """The number of the first window that holds the first accepted text whole, else the next text; 0 if none does."""
    for answer in gold if isinstance(gold, list) else ():
        for number, row in enumerate(cut):
            if answer in str(row[column]):
                return number
    return 0
