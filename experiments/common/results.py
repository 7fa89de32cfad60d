"""The results file of all studies: JSON with a checksum, one line a cell, written whole or not at all.

    {"format": 1, "sha256": ..., "cells": {"NAME": {"SEED": {"score": ..., ...}}}, ...}

A run whose numbers are in the file is never made again, also where the store of runs is gone.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.documents import digest
from softprompt.errors import BadInput, DamagedFile
from softprompt.store import write_file

FORMAT = 1


def write_plain(path: Path, values: Any) -> None:
    """Replace a results file without a checksum, whole or not at all: a kill must not cost the results of hours."""
    write_file(path, (json.dumps(values, indent=1) + "\n").encode(), what="the results", replace=True)


@dataclass(frozen=True, kw_only=True)
class ResultsFile:
    """What the results file of one study has to hold.

    Args:
        study: its name in messages.
        command: makes the results again.
        is_record: whether a run's record is one that a run can have left.
        hashed: the parts that the checksum is over; None takes all.
        nested: the parts that have one line an entry of an entry.
        is_sorted: whether entries are written by their names; otherwise in the order in which they were made.
        required: parts without which it is another file.
    """

    study: str
    command: str
    is_record: Callable[[Any], bool]
    required: tuple[str, ...] = ("cells", "rates")
    hashed: tuple[str, ...] | None = None
    nested: tuple[str, ...] = ()
    is_sorted: bool = True

    def read(self, path: Path) -> dict[str, Any] | None:
        """The values of the file, without its checksum; None where there is no file.

        Raises:
            DamagedFile: it is not as it was written; names the run if the damage is in one.
            BadInput: it cannot be read, or is of another version.
        """
        repair = f"restore it from version control, or delete it and run `{self.command}` again"
        try:
            values = json.loads(path.read_bytes())
            seal = values.pop("sha256")
            cells = {part: values[part] for part in self.required}["cells"]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}; check its permissions") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedFile(
                f"{path} holds no results of {self.study}, or is not as it was written; {repair}"
            ) from error
        if values.get("format") != FORMAT:
            raise BadInput(
                f"{path} has format {values.get('format')!r}, this version reads {FORMAT}; run `{self.command}` again"
            )
        for name, seed in self._damaged(cells):
            raise DamagedFile(f"{path}: the result of {name}, seed {seed}, is damaged; {repair}")
        if seal != self._digest(values):
            raise DamagedFile(f"{path} is not as it was written (its checksum differs); {repair}")
        return values

    def write(self, path: Path, values: Mapping[str, Any]) -> None:
        """Replace the file.

        Raises:
            StorageFailure: the disk is full or not writable; what was there before still is.
        """
        write_file(path, self.to_bytes(values), what=f"the results of {self.study}", replace=True)

    def to_bytes(self, values: Mapping[str, Any]) -> bytes:
        """The file: one line a cell, so that two versions differ in the lines of new runs only."""
        values = {"format": FORMAT, **values}
        parts = [f'"format":{FORMAT},"sha256":"{self._digest(values)}"']
        for name in sorted(values.keys() - {"format"}):
            parts.append(f"{_json(name)}:{_lines(values[name], 1 + (name in self.nested), self.is_sorted)}")
        return ("{" + ",\n".join(parts) + "}\n").encode()

    def _digest(self, values: Mapping[str, Any]) -> str:
        return digest({name: values[name] for name in self.hashed or values})

    def _damaged(self, cells: Any) -> list[tuple[str, str]]:
        """(cell, seed) of the runs whose record cannot be one."""
        if not isinstance(cells, Mapping):
            return [("every cell", "any")]
        wrong = [(name, "any") for name, cell in cells.items() if not isinstance(cell, Mapping)]
        return wrong or [
            (name, seed) for name, cell in cells.items() for seed, record in cell.items()
            if not (seed.isdigit() and isinstance(record, Mapping) and self.is_record(record))
        ]  # fmt: skip


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _json(value: Any, is_sorted: bool = True) -> str:
    return json.dumps(value, sort_keys=is_sorted, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _lines(value: Any, depth: int, is_sorted: bool) -> str:
    """A value; a dict has one line an entry, down to this depth."""
    if not depth or not isinstance(value, Mapping) or not value:
        return _json(value, is_sorted)
    entries = sorted(value.items()) if is_sorted else value.items()
    lines = [f"{_json(name)}:{_lines(entry, depth - 1, is_sorted)}" for name, entry in entries]
    return "{\n" + ",\n".join(lines) + "\n}"
