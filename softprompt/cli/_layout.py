"""Tables as text: aligned columns, and where a terminal is too narrow for them, several tables below each other."""

import os
import textwrap
from collections.abc import Sequence
from typing import Any

from ..errors import visible

GAP = 2
# A column of text keeps at least so many characters; a narrower one goes into a table of its own.
NARROWEST_TEXT = 24

Line = Sequence[str]


def width_of(stream: Any) -> int | None:
    """Characters of a line of the terminal behind a stream; None where it is a file or a pipe."""
    if not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdecimal() and int(given) else os.get_terminal_size(stream.fileno()).columns or None


def laid_out(names: Line, lines: Sequence[Line], right: Sequence[bool], width: int | None) -> str:
    """Aligned columns; one row a line where they fit.

    Where they do not, a long text is broken at its blanks, and columns that are left over follow in further tables,
    each with the columns that tell the rows apart. A number is never broken.

    Args:
        names: of the columns.
        lines: the cells of each row.
        right: which columns are set to the right, and are never broken.
        width: characters of a line; None is no bound.
    """
    names, lines = [visible(name) for name in names], [[visible(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in [names, *lines]) for column in range(len(names))]
    if width is None or _total(widths) <= width:
        return _table(names, lines, right, widths)
    narrow = _narrowed(widths, right, width)
    if narrow is not None:
        return _table(names, lines, right, narrow)
    keys = _keys(lines)
    if _total(widths[:keys]) > width // 2:
        number = [str(place) for place in range(1, len(lines) + 1)]
        numbered = [[place, *line] for place, line in zip(number, lines, strict=True)]
        names, lines, right, keys = ["row", *names], numbered, [True, *right], 1
        widths = [max(len("row"), len(number[-1])), *widths]
    tables = []
    for block in _blocks(widths, keys, width):
        chosen = [*range(keys), *block]
        room = width - _total([widths[column] for column in chosen[:-1]]) - GAP
        fitted = [widths[column] for column in chosen]
        if not right[chosen[-1]]:
            fitted[-1] = min(fitted[-1], max(room, len(names[chosen[-1]])))
        picked = [[line[column] for column in chosen] for line in lines]
        tables.append(_table([names[c] for c in chosen], picked, [right[c] for c in chosen], fitted))
    return "\n\n".join(tables)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * max(0, len(widths) - 1)


def _narrowed(widths: Sequence[int], right: Sequence[bool], width: int) -> list[int] | None:
    """The widths with the widest text broken so that all fit; None if too little of it would be left."""
    texts = [column for column, is_number in enumerate(right) if not is_number]
    if not texts:
        return None
    widest = max(texts, key=lambda column: widths[column])
    left = widths[widest] - (_total(widths) - width)
    return [left if column == widest else w for column, w in enumerate(widths)] if left >= NARROWEST_TEXT else None


def _keys(lines: Sequence[Line]) -> int:
    """How many columns from the left tell all rows apart; 1 where none do."""
    count = len(lines[0]) if lines else 1
    return next((n for n in range(1, count) if len({tuple(line[:n]) for line in lines}) == len(lines)), 1)


def _blocks(widths: Sequence[int], keys: int, width: int) -> list[list[int]]:
    """The columns behind the keys, as many to a table as fit beside those."""
    blocks: list[list[int]] = []
    for column in range(keys, len(widths)):
        together = [*range(keys), *(blocks[-1] if blocks else ()), column]
        if blocks and _total([widths[c] for c in together]) <= width:
            blocks[-1].append(column)
        else:
            blocks.append([column])
    return blocks


def _table(names: Line, lines: Sequence[Line], right: Sequence[bool], widths: Sequence[int]) -> str:
    return "\n".join(text for line in [names, *lines] for text in _printed(line, right, widths))


def _printed(line: Line, right: Sequence[bool], widths: Sequence[int]) -> list[str]:
    """A row as one line of text, or as several where a cell is broken."""
    cells = [
        [cell] if is_number or len(cell) <= width else textwrap.wrap(cell, width) or [""]
        for cell, is_number, width in zip(line, right, widths, strict=True)
    ]
    height = max(map(len, cells), default=1)
    rows = [[cell[place] if place < len(cell) else "" for cell in cells] for place in range(height)]
    return [
        (" " * GAP)
        .join(
            text.rjust(width) if is_number else text.ljust(width)
            for text, is_number, width in zip(row, right, widths, strict=True)
        )
        .rstrip()
        for row in rows
    ]
