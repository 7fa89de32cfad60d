"""What the JSON of tasks and sources leaves out, and how its lists are read back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

# Fields that came later are left out of JSON at their defaults, so that hashes of studies made before stay as they are.
_LATER = ("blanks", "delimiter", "memory", "beside", "train", "test", "layout", "where", "grouped", "window", "stride",
          "instruction", "cue", "opening_ids", "drawn", "class_names")  # fmt: skip


def without_later(of: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a task or source without those of later fields that say nothing new.

    Args:
        of: the dataclass whose fields the values are.
        values: plain, by the name of their field.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(of)}
    return {name: value for name, value in values.items() if name not in _LATER or value not in ({}, defaults[name])}


def tupled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they were before JSON made lists of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
