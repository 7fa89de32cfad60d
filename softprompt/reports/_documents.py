"""Reports on stability and landscapes as they lie in a folder, checked as far as a page shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..documents import check_shape, in_file
from ..errors import DamagedFile
from ..store import read_json
from ..study.stability import Against

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stability:
    """What of a report on stability is shown."""

    about: Values
    spreads: Sequence[Values]
    arms: Mapping[str, Values] = field(default_factory=dict)
    comparisons: Sequence[Values] = ()
    warnings: Sequence[str] = ()
    untrained: Sequence[Values] = ()


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """What of a landscape is shown."""

    coordinates: Sequence[float]
    prompts: Sequence[Values]
    settings: Values = field(default_factory=dict)


def read_stability(folder: Path) -> Values:
    """The report of `softprompt stability` in a folder.

    Raises:
        SoftPromptError: it cannot be read, or lacks what is shown of it.
    """
    path = folder / "report.json"
    values = read_json(path, max_bytes=None)
    with in_file(path):
        check_shape(Stability, values, is_open=True)
        for line in values.get("comparisons", ()):
            check_shape(Against, line, is_open=True)
    return values


def read_landscape(folder: Path) -> Values:
    """The landscape in a folder.

    Raises:
        SoftPromptError: it cannot be read, or lacks what is drawn of it.
    """
    path = folder / "landscape.json"
    values = read_json(path, max_bytes=None)
    with in_file(path):
        check_shape(Landscape, values, is_open=True)
    length = len(values["coordinates"])
    for surface in (prompt["surface"] for prompt in values["prompts"] if "surface" in prompt):
        if not (_is_of(length, surface) and all(_is_of(length, row) and _are_numbers(row) for row in surface)):
            raise DamagedFile(f"{str(path)!r} has a surface of another size than its coordinates; draw it again")
    return values


def _is_of(length: int, values: Any) -> bool:
    return isinstance(values, list) and len(values) == length


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float | None) for value in values)
