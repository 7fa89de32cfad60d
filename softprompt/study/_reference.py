"""Published numbers beside those of a study: a JSON file of cells, which a study file names."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnknownName
from ._file import parsed
from ._stored import StoredRun
from .tables import Row, value

# What a cell holds beside the keys that say which runs it is of.
_NOT_KEYS = ("value", "label")
UNIT = 100.0


def with_reference(rows: Sequence[Row], runs: Sequence[StoredRun], by: Sequence[str], path: "Path | str") -> list[Row]:
    """Rows of `summary` with the published numbers that the study file names, where they are of the same runs.

    `paper` is the mean of the published cells of all tasks, models and methods in the row, in the unit of our scores,
    and `difference` is ours minus theirs. Both are None where a cell of the row is missing, damaged in the copy of the
    paper that was read, or not of this model and task. A number of the paper is of its own seeds and runs.

    Args:
        rows: of `summary(runs, by)`.
        runs: the runs of these rows.
        by: the keys of the rows.
        path: the study file; without `reference` in it the rows stay as they are.

    Raises:
        BadInput: the file of the reference cannot be read, or is not JSON.
        UnknownName: it has no such table.
    """
    cells = reference_cells(Path(path))
    if cells is None:
        return list(rows)
    grouped: dict[tuple[Any, ...], list[StoredRun]] = {}
    for run in runs:
        grouped.setdefault(tuple(value(run.spec, key) for key in by), []).append(run)
    return [{**row, **_beside(row, grouped[tuple(row[key] for key in by)], cells)} for row in rows]


def reference_cells(path: Path) -> list[dict[str, Any]] | None:
    """The published cells that a study file names by `reference = "FILE.json#TABLE"`; None where it names none."""
    named = parsed(path).get("reference")
    if named is None:
        return None
    if not isinstance(named, str) or "#" not in named:
        raise BadInput(f"{path}: reference is {named!r}; give a file and its table, as in 'ept.json#table1'")
    file, _, table = named.partition("#")
    place = path.parent / file
    try:
        tables = json.loads(place.read_text(encoding="utf-8"))["tables"]
    except OSError as error:
        raise BadInput(f"cannot read {place}, the reference of {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{place} holds no tables of published numbers; give another reference in {path}") from error
    if table not in tables:
        raise UnknownName(f"table of {place}", table, tables)
    return tables[table]["cells"]


def _beside(row: Row, runs: Sequence[StoredRun], cells: Sequence[Mapping[str, Any]]) -> Row:
    places = {_cell_of(run, cells) for run in runs}
    published = [cells[place]["value"] for place in places if place is not None]
    known = [number for number in published if number is not None]
    if not known or len(known) < len(places) or row.get("mean") is None:
        return {"paper": None, "difference": None}
    paper = sum(known) / len(known) / UNIT
    return {"paper": paper, "difference": row["mean"] - paper}


def _cell_of(run: StoredRun, cells: Sequence[Mapping[str, Any]]) -> int | None:
    """The place of a run's cell: the first of which all keys are the run's own."""
    return next((place for place, cell in enumerate(cells) if _is_of(run, cell)), None)


def _is_of(run: StoredRun, cell: Mapping[str, Any]) -> bool:
    return all(value(run.spec, key) == cell[key] for key in cell if key not in _NOT_KEYS)
