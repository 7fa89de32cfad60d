"""Plain values as bytes of JSON: readable or compact, and each time the same bytes for the same values."""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_bytes(values: Any, *, allow_nan: bool = False) -> bytes:
    """Return readable JSON in UTF-8, from which each float is read back with the same bits.

    Args:
        values: plain values. Tuples are read back as lists.
        allow_nan: whether NaN and infinity are written as Python does. Otherwise they become null, as standard JSON
            has no such numbers.
    """
    plain = values if allow_nan else without_nan(values)
    return (json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def compact(values: Any) -> bytes:
    """Plain values as JSON with sorted keys and no blanks; each float is written so that its bits are read back."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def without_nan(values: Any) -> Any:
    """Plain values with None for NaN and infinity, of which JSON has none; tuples become lists."""
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {key: without_nan(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [without_nan(value) for value in values]
    return values
