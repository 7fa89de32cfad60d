"""The results of the runs in one file, from which the whole page is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softprompt.errors import BadInput, DamagedFile, SoftPromptError
from softprompt.metrics import is_stuck

from ..common.paired import Cell, differences
from ..common.results import ResultsFile, is_number
from .arm import Arm, Setting
from .design import PAPER_RATE, Design

Record = dict[str, Any]


@dataclass(kw_only=True)
class Results:
    """Finished runs by task, arm and seed, the learning rates, and what other studies found.

    Args:
        design: of the study.
        rates: setting -> {"lr", "source", "edge", "trials"}; lr is None until it is chosen.
        unprompted: task -> test score of the frozen model without a prompt.
        cells: "<task>|<arm>" -> seed -> what is kept of the run.
        evidence: results of other studies, as they were when they were read.
    """

    design: Design
    rates: dict[str, Record] = field(default_factory=dict)
    unprompted: dict[str, float] = field(default_factory=dict)
    cells: dict[str, dict[str, Record]] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)

    def record(self, task: str, arm: Arm, seed: int) -> Record | None:
        """The record of a run; None if there is none."""
        return self.cells.get(f"{task}|{arm.name}", {}).get(str(seed))

    def keep(self, task: str, arm: Arm, seed: int, record: Record) -> None:
        """Put a run's record in its place."""
        self.cells.setdefault(f"{task}|{arm.name}", {})[str(seed)] = record

    def own_rate(self, setting: Setting) -> float | None:
        """The learning rate chosen for a setting; None if none is yet."""
        return self.rates.get(setting.name, {}).get("lr")

    def arms(self, setting: Setting) -> dict[str, Arm | None]:
        """The setting at its own learning rate, None if it is not chosen yet, and at the papers', if tried, by name."""
        rate = self.own_rate(setting)
        own = {"own rate": None if rate is None else setting.at(rate)}
        return own if self.design.at_defaults else {**own, f"lr {PAPER_RATE:g}": setting.at_paper}

    def records(self, arm: Arm | None) -> dict[Cell, Record]:
        """What is kept of every run of an arm, by task and seed."""
        cells = [(task, seed) for task in self.design.tasks for seed in self.design.seed_numbers]
        records = {} if arm is None else {cell: self.record(cell[0], arm, cell[1]) for cell in cells}
        return {cell: record for cell, record in records.items() if record is not None}

    def values(self, arm: Arm | None, quantity: Callable[[Record], float | None]) -> dict[Cell, float]:
        """A quantity of every run of an arm that has it, by task and seed."""
        values = {cell: quantity(record) for cell, record in self.records(arm).items()}
        return {cell: value for cell, value in values.items() if value is not None}

    def paired(
        self, first: Arm | None, second: Arm | None, quantity: Callable[[Record], float | None] | None = None
    ) -> list[float]:
        """The first minus the second, over the tasks and seeds that both have; by default of test scores."""
        return differences(self.values(first, quantity or score), self.values(second, quantity or score))

    def best(self) -> dict[str, float]:
        """The best score of any run of each task."""
        top: dict[str, float] = {}
        for name, seeds in self.cells.items():
            task = name.partition("|")[0]
            scores = [value for record in seeds.values() if (value := score(record)) is not None]
            top[task] = max([top.get(task, 0.0), *scores])
        return top

    def floor(self, task: str) -> float:
        """The score without training: the better of the frozen model alone and the most frequent class."""
        chances = [
            record["majority"] or 0.0
            for name, seeds in self.cells.items()
            if name.partition("|")[0] == task
            for record in seeds.values()
        ]
        return max([self.unprompted.get(task, 0.0), *chances])

    def learned(self, arm: Arm | None) -> dict[Cell, Record]:
        """The runs of an arm that got half of the way from the floor to the best run of their task."""
        best = self.best()
        return {
            (task, seed): record
            for (task, seed), record in self.records(arm).items()
            if not is_stuck(score(record) or 0.0, self.floor(task), best[task])
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "design": self.design.to_json(),
            "rates": self.rates,
            "evidence": self.evidence,
            "unprompted": self.unprompted,
            "cells": self.cells,
        }

    def write(self, path: Path) -> None:
        """Replace the file.

        Raises:
            StorageFailure: the disk is full or not writable.
        """
        FILE.write(path, self.to_json())


def score(record: Mapping[str, Any]) -> float | None:
    """The test score; of a run that was dropped, that of always answering the most frequent class."""
    return record["score"] if record["score"] is not None else record["majority"]


def peak(record: Record) -> float | None:
    """The largest kept norm, in token norms."""
    known = [norm for norm in record["norms"] if norm is not None]
    return max(known, default=None)


def read_results(path: "Path | str") -> Results:
    """The results in a file.

    Raises:
        BadInput: no such file, or one of another version.
        DamagedFile: it is not as it was written; names the cell if it is one.
    """
    values = FILE.read(Path(path))
    if values is None:
        raise BadInput(f"there are no results at {path}; run `python -m experiments.claims` first")
    try:
        design = Design.from_json(values["design"])
    except (SoftPromptError, TypeError, KeyError) as error:
        raise DamagedFile(f"{path} is not as it was written; restore it from version control ({error})") from error
    return Results(design=design, **{name: values[name] for name in FILE.required if name != "design"})


def _is_record(record: Mapping[str, Any]) -> bool:
    """Whether a run can have left it."""
    if not {"run", "score", "majority", "norms"} <= record.keys() or not isinstance(record["norms"], list):
        return False
    shares = [record[name] for name in ("score", "majority") if record[name] is not None]
    norms = [norm for norm in record["norms"] if norm is not None]
    return all(is_number(share) and share <= 1 for share in shares) and all(
        is_number(norm) and norm >= 0 for norm in norms
    )


FILE = ResultsFile(
    study="the claims",
    command="python -m experiments.claims",
    is_record=_is_record,
    required=("design", "rates", "unprompted", "cells", "evidence"),
)
