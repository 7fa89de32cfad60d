"""How results are printed: JSON lines or a plain table on standard output, the rest on standard error."""

import contextlib
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..documents import without_nan
from ..errors import visible, visible_json
from ._layout import laid_out


def print_json(value: Any) -> None:
    """Print one line of JSON on standard output, and flush it before the next result is computed."""
    # JSON escapes what is below a blank; here follow the other characters that a terminal obeys.
    print(visible_json(json.dumps(without_nan(value), ensure_ascii=False)), flush=True)


def cell(value: Any) -> str:
    """A value as a table shows it: four digits of a score, thousands with commas, nothing for None."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(cell(item) for item in value)
        case Mapping():
            return " ".join(f"{name}={cell(item)}" for name, item in value.items() if item is not None)
        case _:
            return visible(str(value), kept="\n\t")


def table(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """Aligned columns under the keys of all rows, numbers to the right; one row a line, for grep.

    In a terminal of `width` characters (`width_of`) that is too narrow for that, as `laid_out` breaks it.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[cell(row.get(name)) for name in names] for row in rows]
    is_number = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in names]
    return laid_out(names, lines, is_number, width)


def record(values: Mapping[str, Any], width: int | None = None) -> str:
    """One `name  value` a line; what is empty is left out, and a long value broken at the blanks of `width`."""
    texts = {visible(name): cell(value) for name, value in values.items() if value or isinstance(value, int | float)}
    named = max(map(len, texts), default=0)
    if width is None:
        return "\n".join(f"{name.ljust(named)}  {text}" for name, text in texts.items())
    room = max(width - named - 2, 1)
    return "\n".join(
        textwrap.fill(
            text, room + named + 2, initial_indent=f"{name.ljust(named)}  ", subsequent_indent=" " * (named + 2),
            break_on_hyphens=False,
        )
        for name, text in texts.items()
    )  # fmt: skip


def say(text: str) -> None:
    """Print a line on standard error for the person at the terminal; nothing if it cannot be written."""
    with contextlib.suppress(OSError):
        print(visible(text, kept="\n"), file=sys.stderr, flush=True)
