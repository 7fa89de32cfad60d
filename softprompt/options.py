"""Options as words from a command line, made into the type of their default."""

import contextlib
from collections.abc import Callable
from typing import Any

from .errors import BadInput

# KeyError or ValueError where a word cannot be read.
_READ: dict[type, Callable[[str], Any]] = {
    bool: lambda word: {"true": True, "false": False}[word.lower()],
    int: int,
    float: float,
}
_NEEDED = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def like(what: str, name: str, value: Any, default: Any) -> Any:
    """The value as the type of the default, a default of None being a number not given.

    Args:
        what: kind of option, for the message: "method option".
        name: of the option.
        value: a word, or a value that may be of the right type already.
        default: whose type it shall have.

    Raises:
        BadInput: it cannot be read as that type.
    """
    kind = int if default is None else type(default)
    if type(value) is kind or value is default:
        return value
    with contextlib.suppress(KeyError, ValueError):
        if isinstance(value, str):
            return _READ[kind](value)
        if kind is float and type(value) is int:
            return float(value)
    raise BadInput(f"{what} {name!r} is {_NEEDED[kind]}, not {value!r}")
