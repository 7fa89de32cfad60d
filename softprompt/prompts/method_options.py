"""The options of a method as a user gives them: their names and types, and what they say of the prompt's length."""

from collections.abc import Mapping
from typing import Any

from ..errors import BadInput, UnknownName
from ..options import like


def weight_options(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options of a method that trains weights, in the types of their defaults.

    Args:
        given: by name; `prompt_length` is the option `length` of weights that have it.
        defaults: all options of the method.

    Raises:
        UnknownName: an option does not exist.
        BadInput: an option cannot have the given value.
    """
    renamed = {"prompt_length": "length"} if "length" in defaults else {}
    named = {renamed.get(name, name): value for name, value in given.items()}
    return {name: _option(name, value, defaults) for name, value in named.items()}


def prompt_options(
    given: Mapping[str, Any], sizes: Mapping[str, int], defaults: Mapping[str, Any], method: str
) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the sizes of a prompt with those that are given, and the given options of its network.

    Args:
        given: by name; `prompt_length` is `m` for a method that repeats nothing.
        sizes: the method's `m` and `repeats`.
        defaults: all options of its network.
        method: its name, for messages.

    Raises:
        UnknownName: an option does not exist.
        BadInput: an option cannot have the given value.
    """
    known = {**sizes, "prompt_length": sizes["m"], **defaults}
    read = {name: _option(name, value, known) for name, value in given.items()}
    lengths = {name: read.pop(name) for name in (*sizes, "prompt_length") if name in read}
    for name, size in lengths.items():
        if size < 1:
            option = "--prompt-length" if name == "prompt_length" else f"method option {name!r}"
            raise BadInput(f"{option} must be at least 1, not {size}")
    return _sizes(lengths, sizes, method), read


def _option(name: str, value: Any, known: Mapping[str, Any]) -> Any:
    """Return the value of an option in the type of its default."""
    if name not in known:
        raise UnknownName("method option", name, known)
    return like("method option", name, value, known[name])


def _sizes(lengths: Mapping[str, int], sizes: Mapping[str, int], method: str) -> dict[str, int]:
    """Return the sizes that the lengths change, `prompt_length` being the number of vectors."""
    changed = {**sizes, **lengths}
    length = changed.pop("prompt_length", None)
    if length is None:
        return changed
    if "m" in lengths:
        raise BadInput("give --prompt-length or the option 'm', not both")
    if changed["repeats"] > 1:
        raise BadInput(
            f"{method!r} repeats its vectors {changed['repeats']} times, so --prompt-length could mean two things; "
            "give the option 'm' (trained vectors) or 'repeats', as in --method-option m=3"
        )
    return {**changed, "m": length}
