"""The results in one file: every finished run's scores and every tried learning rate, with nothing else beside it.

    {"format": 1, "sha256": ..., "cells": {"PART/MODEL/TASK/METHOD": {"SEED": {"score": ..., ...}}},
     "rates": {"MODEL": {"METHOD": {"chosen": 0.3, "edge": false, "steps": 250, "trials": {"0.3": {...}}}}}}

One line a cell, written whole or not at all. What is in it is never run again, also where the store of runs is gone.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softprompt.errors import BadInput, DamagedFile

FORMAT = 1
# What a run has in a cell, and which of it may be missing.
NUMBERS = ("score", "validation", "train", "loss", "norm", "majority")
Entry = Mapping[str, Any]
Cell = Mapping[str, Entry]
Change = Callable[[dict[str, Any], dict[str, Any]], None]


@dataclass(frozen=True)
class Results:
    """What is known.

    Args:
        cells: "PART/MODEL/TASK/METHOD" -> seed -> what a run has.
        rates: model -> method -> the chosen learning rate and the tried ones.
    """

    cells: Mapping[str, Cell] = field(default_factory=dict)
    rates: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def chosen(self, model: str, candidate: str) -> float | None:
        """The learning rate of a method on a model; None while it is not chosen."""
        return self.rates.get(model, {}).get(candidate, {}).get("chosen")


def key_of(part: str, model: str, task: str, candidate: str) -> str:
    """The name of a cell."""
    return f"{part}/{model}/{task}/{candidate}"


def of_key(key: str) -> tuple[str, str, str, str]:
    """Part, model, task and method of a cell's name; a task has slashes of its own."""
    part, model, rest = key.split("/", 2)
    task, candidate = rest.rsplit("/", 1)
    return part, model, task, candidate


def read_results(path: "Path | str") -> Results:
    """The results of a file; empty where there is none.

    Raises:
        DamagedFile: it is not as it was written, or a run in it cannot be; names the cell.
        BadInput: it cannot be read, or is of another version.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Results()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}; check its permissions") from error
    repair = "restore it from version control, or delete it and run the study again"
    try:
        values = json.loads(content)
        found, digest = Results(values["cells"], values["rates"]), values["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedFile(f"{path} holds no results of a confirmation study ({error}); {repair}") from error
    if values.get("format") != FORMAT:
        raise BadInput(f"{path} has format {values.get('format')!r}, this version reads {FORMAT}; run the study again")
    wrong = next((key for key, cell in found.cells.items() if not _is_cell(key, cell)), None)
    if wrong is not None:
        raise DamagedFile(f"{path}: cell {wrong!r} is damaged; {repair}")
    if _digest(found) != digest:
        raise DamagedFile(f"{path} is not as it was written (its checksum differs); {repair}")
    return found


def change_results(path: "Path | str", store: "Path | str", change: Change) -> Results:
    """Let `change` alter the cells and rates of the file, as they are now, and write them; the results after it.

    Several processes may do so at once: one after the other, by a lock in the store.

    Raises:
        DamagedFile: as in `read_results`; the file stays as it was.
        StorageFailure: the disk is full or not writable; what was there before still is.
    """
    from filelock import FileLock
    from softprompt.store import write_file

    path, store = Path(path), Path(store)
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / ".results.lock"):
        before = read_results(path)
        cells: dict[str, Any] = {key: dict(cell) for key, cell in before.cells.items()}
        rates: dict[str, Any] = {model: dict(found) for model, found in before.rates.items()}
        change(cells, rates)
        after = Results(cells, rates)
        write_file(path, to_bytes(after), what="the results", replace=True)
    return after


def to_bytes(results: Results) -> bytes:
    """The file: sorted, one line a cell and a rate, so that versions differ in what is new."""
    cells = ",\n".join(f"{json.dumps(key)}:{_line(_by_seed(cell))}" for key, cell in sorted(results.cells.items()))
    rates = ",\n".join(
        f"{json.dumps(model)}:{{\n"
        + ",\n".join(f"{json.dumps(name)}:{_line(found)}" for name, found in sorted(by_method.items()))
        + "\n}"
        for model, by_method in sorted(results.rates.items())
    )
    head = f'{{"format":{FORMAT},"sha256":"{_digest(results)}"'
    return f'{head},\n"cells":{{\n{cells}\n}},\n"rates":{{\n{rates}\n}}}}\n'.encode()


def _digest(results: Results) -> str:
    values = {"cells": results.cells, "rates": results.rates}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _line(values: Any) -> str:
    return json.dumps(values, separators=(",", ":"), allow_nan=False)


def _by_seed(cell: Cell) -> dict[str, Entry]:
    return {seed: cell[seed] for seed in sorted(cell, key=int)}


def _is_cell(key: str, cell: Any) -> bool:
    if key.count("/") < 3 or not isinstance(cell, Mapping):
        return False
    return all(seed.isdigit() and isinstance(run, Mapping) and _is_run(run) for seed, run in cell.items())


def _is_run(run: Mapping[str, Any]) -> bool:
    if not {*NUMBERS, "steps", "lr", "status"} <= run.keys():
        return False
    known = [run[name] for name in NUMBERS if run[name] is not None]
    finite = all(isinstance(value, int | float) and math.isfinite(value) for value in [*known, run["lr"]])
    return finite and (run["score"] is None or -1 <= run["score"] <= 1)
