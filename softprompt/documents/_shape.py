"""What kind of value each field of a document has: the annotations of the dataclass that it becomes, read strictly.

A schema beside the dataclass would be a second truth. pydantic reads the annotations instead: a number is no text and
no yes or no, a list holds what the tuple holds, a name that is no field is refused, and nothing is converted.
"""

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import BadInput, SoftPromptError, UnknownName

# The metadata of a field that no document holds.
NOT_STORED = {"stored": False}
# Longest part of a value that a message quotes.
QUOTED = 40


def check_shape(kind: type, values: Any, /, *, partial: bool = False, is_open: bool = False, **others: Any) -> None:
    """Refuse values of a document that are not what the fields of a dataclass hold.

    Args:
        kind: the dataclass.
        values: as JSON has them.
        partial: whether fields may be absent.
        is_open: whether there may be values that are no field.
        others: types of fields whose values in the document are of another kind than in the dataclass.

    Raises:
        UnknownName: a name that is no field; the message gives the nearest.
        BadInput: a value of another kind, or a field that is missing.
    """
    from pydantic import ValidationError
    from pydantic_core import to_json

    if not isinstance(values, Mapping):
        raise BadInput(f"the {_words(kind)} must be an object of fields, not {_quoted(values)}")
    try:
        _model(kind, partial, is_open, tuple(sorted(others.items()))).validate_json(
            to_json(dict(values), inf_nan_mode="constants")
        )
    except ValidationError as error:
        raise _in_words(kind, error.errors(include_url=False)[0], values) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the {_words(kind)} holds what JSON cannot; fetch the file again") from error


@contextlib.contextmanager
def in_file(path: "Path | str") -> Iterator[None]:
    """Within the block, what is wrong with a document is said with the name of its file."""
    try:
        yield
    except UnknownName as error:
        raise BadInput(f"{str(path)!r}: {error.message} An upgrade of softprompt may know it") from error
    except BadInput as error:
        named = error.message if str(path) in error.message else f"{str(path)!r}: {error.message}"
        raise type(error)(named) from error


@functools.cache
def _model(kind: type, partial: bool, is_open: bool, others: tuple[tuple[str, Any], ...]) -> Any:
    """The validator of a dataclass."""
    from pydantic import ConfigDict, TypeAdapter, create_model

    hints = {**get_type_hints(kind), **dict(others)}
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if not _is_stored(field):
            continue
        is_needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        # Aliases, because a field may have a name that pydantic keeps for itself.
        fields[f"f_{field.name}"] = (_plain(hints[field.name]), ... if is_needed and not partial else None)
    config = ConfigDict(
        strict=True,
        extra="allow" if is_open else "forbid",
        alias_generator=lambda name: name.removeprefix("f_"),
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
    )
    return TypeAdapter(create_model(kind.__name__, __config__=config, **fields))


def _is_stored(field: "dataclasses.Field[Any]") -> bool:
    return field.metadata.get("stored", True)


def _plain(hint: Any) -> Any:
    """A type as JSON has it: a dataclass inside is an object of its fields."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return Mapping[str, Any]
    if get_origin(hint) in (Union, UnionType):
        return functools.reduce(operator.or_, map(_plain, get_args(hint)))
    return hint


def _in_words(kind: type, error: Mapping[str, Any], values: Mapping[str, Any]) -> SoftPromptError:
    place, what = [str(part) for part in error["loc"]], error["type"]
    name = place[0] if place else ""
    if what == "extra_forbidden":
        return UnknownName(
            f"field of the {_words(kind)}",
            name,
            [field.name for field in dataclasses.fields(kind) if _is_stored(field)],
        )
    if what == "missing":
        return BadInput(f"{name!r} of the {_words(kind)} is missing; fetch the file again")
    where = f"{name!r} of the {_words(kind)}"
    return BadInput(f"{where} is {_quoted(values.get(name))}: {error['msg'].lower()}; fetch the file again")


def _words(kind: type) -> str:
    """The name of a class as people write it: "train settings" of TrainSettings."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).strip()


def _quoted(value: Any) -> str:
    text = repr(value) if not isinstance(value, list | Mapping) else f"a {type(value).__name__} of {len(value)}"
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}..."
