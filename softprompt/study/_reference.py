"""Published numbers beside ours: JSON files of cells, which a study file names and a report finds by task and model."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnknownName
from ._file import parsed
from ._stored import StoredRun
from .tables import Row, TableContext, grouped, value

# What papers print, as far as it is known: EPT's tables.
PUBLISHED = Path(__file__).parent / "published"
# What a cell holds beside the keys that say which runs it is of.
_NOT_KEYS = ("value", "label")
UNIT = 100.0


def with_reference(rows: Sequence[Row], runs: Sequence[StoredRun], by: Sequence[str], path: "Path | str") -> list[Row]:
    """Rows of `summary` with the published numbers that the study file names, where they are of the same runs.

    `paper` is the mean of the published cells of all tasks, models and methods in the row, in the unit of our scores,
    and `difference` is the mean over the same cells of ours minus theirs, whatever the number of runs of each. Both are
    None where a cell of the row is missing, damaged in the copy of the paper that was read, or not of this model and
    task; the difference also where a cell has no score of ours yet. A number of the paper is of its own seeds and runs.

    Args:
        rows: of `summary(runs, by)`.
        runs: the runs of these rows.
        by: the keys of the rows.
        path: the study file; without `reference` in it the rows stay as they are.

    Raises:
        BadInput: the file of the reference cannot be read, or holds no cells.
        UnknownName: it has no such table.
    """
    cells = reference_cells(Path(path))
    if cells is None:
        return list(rows)
    groups, context = grouped(runs, by), TableContext(run.spec for run in runs)
    return [{**row, **_printed(row, groups[tuple(row[key] for key in by)], cells, context)} for row in rows]


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
    return _checked(tables[table], f"table {table!r} of {place}")


def _checked(table: Any, what: str) -> list[dict[str, Any]]:
    cells = table.get("cells") if isinstance(table, Mapping) else None
    if not isinstance(cells, list) or not all(
        isinstance(cell, Mapping) and isinstance(cell.get("value", ""), int | float | None) for cell in cells
    ):
        raise BadInput(
            f"{what} holds no `cells`, each with the keys of its runs and a `value` that is a number or null"
        )
    return cells


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


def _printed(row: Row, runs: Sequence[StoredRun], cells: Sequence[Mapping[str, Any]], context: TableContext) -> Row:
    scores: dict[int | None, list[float]] = {}
    for run in runs:
        ours = scores.setdefault(_cell_of(run, cells, context), [])
        if run.score is not None:
            ours.append(run.score)
    printed = {place: None if place is None else cells[place]["value"] for place in scores}
    if row.get("mean") is None or None in printed.values():
        return {"paper": None, "difference": None}
    theirs = {place: number / UNIT for place, number in printed.items() if number is not None}
    paper = statistics.fmean(theirs.values())
    if not all(scores.values()):
        return {"paper": paper, "difference": None}
    return {"paper": paper, "difference": statistics.fmean(statistics.fmean(scores[p]) - theirs[p] for p in theirs)}


def _cell_of(run: StoredRun, cells: Sequence[Mapping[str, Any]], context: TableContext) -> int | None:
    """The place of a run's cell: the first of which all keys are the run's own."""
    return next((place for place, cell in enumerate(cells) if _is_of(run, cell, context)), None)


def _is_of(run: StoredRun, cell: Mapping[str, Any], context: TableContext) -> bool:
    return all(value(run.spec, key, context) == cell[key] for key in cell if key not in _NOT_KEYS)
