"""A column of numbers in the user's own files: what it needs to be one, and with how many decimals it is written."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import pstdev
from typing import Any

from ..errors import BadInput, UnknownName
from ._files import records

# A written number is as fine as a tenth of the numbers' standard deviation, or finer.
FINENESS = 10


def finite_number(value: Any) -> float | None:
    """The value as a number; None where it is none, or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def decimals_of(path: Path, column: str) -> int:
    """The decimals with which a file's numbers are written as answers; malformed rows are named when they are loaded.

    Raises:
        UnknownName: no such column.
        BadInput: no two different numbers.
    """
    columns: dict[str, None] = {}
    numbers: list[float] = []
    for record in records(path):
        columns.update(dict.fromkeys(record.values))
        number = finite_number(record.values.get(column))
        if number is not None:
            numbers.append(number)
    if columns and column not in columns:
        raise UnknownName("column", column, columns)
    if len(set(numbers)) < 2:
        held = f"only the number {numbers[0]:g}" if numbers else "no number"
        raise BadInput(f"column {column!r} of {str(path)!r} holds {held}; a model needs different ones to learn from")
    return _decimals(numbers)


def _decimals(numbers: Sequence[float]) -> int:
    """None of whole numbers; else as many as tell numbers apart that differ by a tenth of the standard deviation."""
    if all(number.is_integer() for number in numbers):
        return 0
    return max(0, -math.floor(math.log10(pstdev(numbers) / FINENESS)))
