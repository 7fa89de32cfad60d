"""One row as it was read: where it stands, its values by column, or what is wrong with it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# What `value_of` answers where a row has no such column; None is a value that files hold.
ABSENT: Any = object()
_UNREADABLE = re.compile("[\0\ud800-\udfff]")


class Record(NamedTuple):
    """One row of a set, or what is wrong with it.

    Args:
        line: where it starts, from 1 (the row's number where rows have no lines: Parquet, JSON arrays, memory).
        values: by column; empty if the row cannot be read.
        fault: why it cannot be read.
    """

    line: int
    values: Mapping[str, Any]
    fault: str = ""


def text_fault(text: str) -> str:
    """Why a text cannot go to a tokenizer, or nothing."""
    unreadable = _UNREADABLE.search(text)
    if not unreadable:
        return ""
    return "a NUL character" if unreadable[0] == "\0" else "bytes that are not UTF-8 (or a lone surrogate)"


def value_of(values: Mapping[str, Any], column: str) -> Any:
    """A row's value in a column; `user.name` is the column of this name, or the field `name` of the object `user`.

    ABSENT where the row has neither.
    """
    if column in values:
        return values[column]
    outer, dot, inner = column.partition(".")
    nested = values.get(outer) if dot else None
    return value_of(nested, inner) if isinstance(nested, Mapping) else ABSENT


def columns_of(values: Mapping[str, Any]) -> Iterator[str]:
    """The names under which a row's values can be asked for, those inside objects with dots."""
    for name, value in values.items():
        yield name
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in columns_of(value))
