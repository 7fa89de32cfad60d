"""The results in one file: the scores of every finished run, and every tried learning rate.

{"cells": {"PART/MODEL/TASK/METHOD": {"SEED": {"score": ..., ...}}},
"rates": {"MODEL": {"METHOD": {"chosen": 0.3, "edge": false, "steps": 250, "trials": {"0.3": {...}}}}}}
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..common.results import ResultsFile, is_number

# The numbers of a run's record that may be None.
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
    values = FILE.read(Path(path))
    return Results() if values is None else Results(values["cells"], values["rates"])


def change_results(path: "Path | str", store: "Path | str", change: Change) -> Results:
    """Let `change` alter the cells and rates of the file, as they are now, and write them; the results after it.

    Several processes may do so at once: one after the other, by a lock in the store.

    Raises:
        DamagedFile: as in `read_results`; the file stays as it was.
        StorageFailure: the disk is full or not writable; what was there before still is.
    """
    path, store = Path(path), Path(store)
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / ".results.lock"):
        before = read_results(path)
        cells: dict[str, Any] = {key: dict(cell) for key, cell in before.cells.items()}
        rates: dict[str, Any] = {model: dict(by_method) for model, by_method in before.rates.items()}
        change(cells, rates)
        after = Results(cells, rates)
        FILE.write(path, vars(after))
    return after


def _is_run(run: Mapping[str, Any]) -> bool:
    if not {*NUMBERS, "steps", "lr", "status"} <= run.keys():
        return False
    known = [run[name] for name in NUMBERS if run[name] is not None]
    return all(map(is_number, [*known, run["lr"]])) and (run["score"] is None or -1 <= run["score"] <= 1)


FILE = ResultsFile(
    study="a confirmation study",
    command="python -m experiments.which_method",
    is_record=_is_run,
    hashed=("cells", "rates"),
    nested=("rates",),
)
