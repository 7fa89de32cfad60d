"""The files of the study: one JSON a cell and piece, read again with a name for what is damaged."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.errors import DamagedFile
from softprompt.store import json_bytes, write_file

from .design import Piece

FORMAT = 1
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Folder:
    """Where results are, and what is needed to make them.

    Args:
        results: one JSON a piece of the study; committed.
        work: rows, runs and locks; may be deleted once the results are there.
    """

    results: Path
    work: Path

    @property
    def runs(self) -> Path:
        """Runs that are not finished."""
        return self.work / "runs"

    @property
    def rows(self) -> Path:
        """Rows of the tasks."""
        return self.work / "rows"

    def path(self, name: str) -> Path:
        """The file of a piece, or of what the frozen model scores."""
        return self.results / f"{name}.json"

    def has(self, piece: Piece) -> bool:
        """Whether the piece has results."""
        return self.path(piece.name).is_file()

    def keep(self, piece: Piece, records: Sequence[Record]) -> None:
        """Write the results of a piece."""
        values = {"task": piece.task, "size": piece.size, "records": list(records)}
        self.write(piece.name, values)

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a file of results, whole or not at all."""
        self.results.mkdir(parents=True, exist_ok=True)
        write_file(self.path(name), json_bytes({"format": FORMAT, **values}), what=f"the results {name}", replace=True)

    def read(self) -> list[dict[str, Any]]:
        """The contents of all files of results, in the order of their names.

        Raises:
            DamagedFile: a file that is not as it was written.
        """
        return [read_results(path) for path in sorted(self.results.glob("*.json"))]


def read_results(path: Path) -> dict[str, Any]:
    """The contents of one file of results.

    Raises:
        DamagedFile: not as it was written.
    """
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT:
            raise DamagedFile(f"{path} has format {values['format']!r}, this study reads {FORMAT}")
        return {**values, "records": [dict(record) for record in values["records"]]}
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path} cannot be read ({error}); delete it and run the study again") from error


def bundle(results: Path, file: Path) -> None:
    """Write all results into one file, to be carried from one machine to another."""
    contents = {
        path.relative_to(results).with_suffix("").as_posix(): read_results(path)
        for path in sorted(results.rglob("*.json"))
    }
    write_file(file, json_bytes(contents), what="the bundle of results", replace=True)


def unbundle(file: Path, results: Path) -> int:
    """Put the results of a bundle into a folder; returns how many files they are."""
    contents = json.loads(file.read_text())
    for name, values in contents.items():
        write_file(results / f"{name}.json", json_bytes(values), what=f"the results {name}", replace=True)
    return len(contents)
