"""Published numbers beside ours: JSON files of cells, which a study file names and a report finds by task and model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnknownName
from ._file import parsed
from ._stored import StoredRun
from .tables import Row, value

# What papers print, as far as it is known: EPT's tables.
PUBLISHED = Path(__file__).parent / "published"
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
    stored_file = path.parent / file
    place = stored_file if stored_file.exists() or not (PUBLISHED / file).is_file() else PUBLISHED / file
    tables = _tables(place, f"the reference of {path}")
    if table not in tables:
        raise UnknownName(f"table of {place}", table, tables)
    return tables[table]["cells"]


def published(task: str, model: str) -> dict[str, float]:
    """The score that the table 1 of Explosive Prompt Tuning prints for each method on a task and a model, in 0..1.

    Args:
        task: its name.
        model: a name on the hub, or a folder that is called like it; empty for models that the paper does not have.
    """
    cells = _tables(PUBLISHED / "ept.json", "what the paper prints")["table1"]["cells"]
    name = model.rstrip("/").rpartition("/")[2]
    of_model = [cell for cell in cells if cell["task"] == task and cell["model"].rpartition("/")[2] == name]
    return {cell["method"]: cell["value"] / UNIT for cell in of_model}


def _tables(place: Path, what: str) -> dict[str, Any]:
    try:
        return json.loads(place.read_text(encoding="utf-8"))["tables"]
    except OSError as error:
        raise BadInput(f"cannot read {place}, {what}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{place}, {what}, holds no tables of published numbers; give another file") from error


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
