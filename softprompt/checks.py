"""Checks of a user's arguments: numbers in a range, lists, lists without repeats, and places that are not taken."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from .errors import BadInput

LARGEST = 2**63 - 1


def option(name: str) -> str:
    """The name of an argument as messages write it: `--batch-size` of `batch_size`."""
    return f"--{name.replace('_', '-')}"


def require_numbers(values: Mapping[str, Any], *, whole: bool = False, zero: bool = False) -> None:
    """Refuse values that are no finite number above 0. None stands for a number that was not given.

    Args:
        values: by the name of their argument.
        whole: whether each has to be a whole number.
        zero: whether 0 is one of them.

    Raises:
        BadInput: names the argument, what is needed and what was given.
    """
    for name, value in values.items():
        if value is not None:
            _require_number(option(name), value, whole, zero)


def _require_number(name: str, value: Any, whole: bool, zero: bool) -> None:
    _require_kind(name, value, whole)
    # A larger one has no float, and is too long to be printed.
    if isinstance(value, Integral) and abs(int(value)) > LARGEST:
        raise BadInput(f"{name} must be at most {LARGEST}; give a smaller number")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        wanted = f"{'0 or more' if zero else 'positive'}{'' if whole else ' and finite'}"
        raise BadInput(f"{name} must be {wanted}, not {value}")


def _require_kind(name: str, value: Any, whole: bool) -> None:
    # Python counts True as a number, and a user who writes True does not mean one step.
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise BadInput(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}")


def plain(value: Any) -> Any:
    """The value as JSON has it where it is a single one of numpy or torch: their numbers are none to JSON."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def require_kind(name: str, value: Any, kind: Any) -> None:
    """Refuse a value of another kind than an argument has.

    Args:
        name: of the argument.
        value: what was given.
        kind: its annotation: bool, str (or Path), float, int or `Mapping`, or None besides; others have no kind.

    Raises:
        BadInput: names the argument, what is needed and what was given.
    """
    kinds = get_args(kind) if isinstance(kind, UnionType) else (get_origin(kind) or kind,)
    if value is None and NoneType in kinds:
        return
    if {int, float} & set(kinds):
        _require_kind(option(name), value, int in kinds)
    for wanted, words in _KINDS.items():
        if wanted in kinds and not isinstance(value, kinds):
            raise BadInput(f"{option(name)} must be {words}, not {_shortened(value)}")


# What messages call a kind.
_KINDS: dict[type, str] = {bool: "true or false", str: "a text", Mapping: "names with their values"}


def refuse_no_scale(scale: float) -> None:
    """Refuse an embedding scale by which nothing can be multiplied and divided.

    Raises:
        BadInput: the scale is zero, negative, infinite or NaN.
    """
    _require_kind("--embedding-scale", scale, whole=False)
    if not (math.isfinite(scale) and scale > 0):
        raise BadInput(f"--embedding-scale must be a positive, finite number, not {scale:g}; 1 is the checkpoint's own")


def listed(name: str, given: Any, single: type | tuple[type, ...] = str) -> list[Any]:
    """The values of a list; a lone value of the type `single` is a list of it.

    Python iterates over a text by letters, and over a mapping or a table by the names of its columns.

    Args:
        name: of the argument, as messages write it.
        given: a list, a tuple, a range, an iterator ...
        single: what a value may be instead of a list; () is nothing.

    Raises:
        BadInput: no list, or something in which the values are not what Python goes through.
    """
    if isinstance(given, single):
        return [given]
    is_table = hasattr(given, "columns") or hasattr(given, "column_names")
    if isinstance(given, str | bytes | Mapping | set | frozenset) or is_table or not isinstance(given, Iterable):
        raise BadInput(f"{name} takes a list, not a {type(given).__name__} ({_shortened(given)}); put it into brackets")
    return list(given)


def require_different(name: str, values: Sequence[Any]) -> None:
    """Refuse a list that holds a value twice: it would count twice.

    Raises:
        BadInput: names the argument and the value.
    """
    if all(isinstance(value, str) for value in values) and len(set(values)) == len(values):
        return
    for place, value in enumerate(values):
        if value in values[:place]:
            raise BadInput(f"{name} is given {value!r} twice; give each once")


def refuse_exists(target: Path, what: str, *, empty_folder: bool = False) -> None:
    """Refuse a place that is taken, also by a link that leads nowhere, before anything is computed.

    Args:
        target: the place.
        what: name of what will be stored there, for messages: "the landscape".
        empty_folder: whether an empty folder may be there.

    Raises:
        BadInput: it is taken.
    """
    is_free = empty_folder and target.is_dir() and not any(target.iterdir())
    if os.path.lexists(target) and not is_free:
        raise BadInput(f"{str(target)!r} exists already; remove it or choose another place for {what}")


def _shortened(given: Any, most: int = 40) -> str:
    """The value on one line, cut to a length that fits a message."""
    text = " ".join(repr(given).split())
    return text if len(text) <= most else f"{text[:most]}..."
