"""A column of numbers in the user's own files: what it needs to be one, and with how many decimals it is written."""

import math
from collections.abc import Iterable, Sequence
from statistics import pstdev
from typing import Any

from ..errors import BadInput, UnknownName
from ._records import ABSENT, Record, columns_of, value_of
from ._stored import MOST_DECIMALS

# A written number is as fine as a tenth of the numbers' standard deviation, or finer.
FINENESS = 10


def finite_number(value: Any) -> float | None:
    """The value as a number; None where it is none, or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def decimals_of(rows: Iterable[tuple[str, Record]], column: str, place: str = "rows") -> int:
    """The decimals with which the numbers of these rows are written as answers; loading names malformed rows.

    Args:
        rows: each with where it is, in words.
        column: that holds the numbers.
        place: where the rows are, for messages.

    Raises:
        UnknownName: no such column.
        BadInput: no two different numbers, or such as differ by less than can be written.
    """
    columns: dict[str, None] = {}
    numbers: list[float] = []
    other, is_there = "", False
    for where, record in rows:
        value = value_of(record.values, column)
        if value is ABSENT:
            columns.update(dict.fromkeys(columns_of(record.values)))
            continue
        is_there, number = True, finite_number(value)
        if number is not None:
            numbers.append(number)
        else:
            other = other or f"; {where}:{record.line} holds {value!r}, which is none"
    if columns and not is_there:
        raise UnknownName("column", column, columns)
    if len(set(numbers)) < 2:
        held = f"only the number {numbers[0]:g}" if numbers else "no number"
        raise BadInput(
            f"column {column!r} of {place!r} holds {held}{other}; a model needs different ones to learn from"
        )
    return _decimals(numbers, column)


def _decimals(numbers: Sequence[float], column: str) -> int:
    """None of whole numbers; else as many as tell numbers apart that differ by a tenth of the standard deviation."""
    if all(number.is_integer() for number in numbers):
        return 0
    step = pstdev(numbers) / FINENESS
    if step < 10.0**-MOST_DECIMALS:
        raise BadInput(
            f"the numbers in column {column!r} differ by about {step:.0e}, which more than {MOST_DECIMALS} decimals "
            "would have to tell apart; multiply the column"
        )
    return max(0, -math.floor(math.log10(step)))
