"""How far a study is: read from the store alone, while any number of processes train."""

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..documents import read_sealed
from ..errors import SoftPromptError
from ._failed import failed_names, failure_of
from ._fleets import RUN, SPECS
from ._lease import owner
from ._spec import RunSpec
from ._stored import path_of, stored_names

# The rate is that of so many runs that were stored last.
RECENT = 50
# Runs that are stored within so many seconds are of one fleet: the time between them says nothing.
TOGETHER = 1.0
# A record's last lines are in so many bytes.
TAIL = 8192


@dataclass(frozen=True)
class Training:
    """A fleet in training.

    Args:
        names: of its runs; in the status of a study of those that are the study's and not stored yet.
        host: the machine.
        pid: the process there.
        step: optimiser steps so far.
        silent: seconds since its last sign of life.
        seconds: after how many silent seconds another process may take over.
    """

    names: tuple[str, ...]
    host: str
    pid: int
    step: int
    silent: float
    seconds: float


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Args:
        total: runs, each counted once.
        stored: of them finished.
        failed: why, by name.
        training: the fleets that processes hold.
        seconds_left: at the rate of the runs stored last; None without such a rate, or where nobody trains.
    """

    total: int
    stored: int
    failed: dict[str, str]
    training: tuple[Training, ...]
    seconds_left: float | None

    @property
    def running(self) -> int:
        """Runs in training."""
        return sum(len(fleet.names) for fleet in self.training)

    @property
    def left(self) -> int:
        """Runs that nobody has begun."""
        return max(0, self.total - self.stored - len(self.failed) - self.running)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        fleets = [{**vars(fleet), "names": list(fleet.names)} for fleet in self.training]
        counts = {"total": self.total, "stored": self.stored, "running": self.running, "left": self.left}
        return {**counts, "failed": self.failed, "training": fleets, "seconds_left": self.seconds_left}


def status(folder: "Path | str", specs: Sequence[RunSpec]) -> Status:
    """How far the runs are in a store."""
    store, names = Path(folder), {spec.name for spec in specs}
    stored = stored_names(store) & names
    failed = {name: failure_of(store, name) or "" for name in sorted((failed_names(store) & names) - stored)}
    training = tuple(_ours(_fleets(store), names - stored))
    left = len(names) - len(stored) - len(failed)
    rate = _seconds_per_run(store, stored) if training else None
    return Status(len(names), len(stored), failed, training, None if rate is None else rate * left)


def _ours(fleets: Iterable[Training], names: Collection[str]) -> Iterator[Training]:
    """The fleets that train any of these runs, without the runs of other studies."""
    for fleet in fleets:
        if ours := tuple(name for name in fleet.names if name in names):
            yield dataclasses.replace(fleet, names=ours)


def _fleets(store: Path) -> list[Training]:
    fleets = []
    for path in sorted((store / "fleets").glob(f"*/{SPECS}")):
        # A fleet may end at this moment.
        with contextlib.suppress(OSError, SoftPromptError, KeyError, TypeError):
            held, plan = owner(path.parent), read_sealed(path, earlier_names=["names"])
            if held is not None and all(isinstance(name, str) for name in plan["names"]):
                silent = max(0.0, _now(store) - held["renewed"])
                step = last_step(path.parent / plan.get("run", RUN))
                who = held["host"].partition("/")[0], held["pid"]
                fleets.append(Training(tuple(plan["names"]), *who, step, silent, held["seconds"]))
    return fleets


def last_step(run: Path) -> int:
    """The newest step in the records of a run's first prompt; 0 without any."""
    for record in sorted(run.glob("*/metrics.jsonl"))[:1]:
        with record.open("rb") as file:
            file.seek(max(0, record.stat().st_size - TAIL))
            for line in reversed(file.read().split(b"\n")[:-1]):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    return int(json.loads(line)["step"])
    return 0


def _seconds_per_run(store: Path, stored: set[str]) -> float | None:
    """Seconds that a run takes, by the times at which the last ones were stored; None before a second fleet is."""
    times = []
    for name in stored:
        with contextlib.suppress(OSError):
            times.append(path_of(store, name).stat().st_mtime)
    last = sorted(times)[-RECENT:]
    later = [moment for moment in last if moment - last[0] > TOGETHER]
    return (later[-1] - last[0]) / len(later) if later else None


def _now(store: Path) -> float:
    """The time by the clock of the file system, as far as it is known without writing."""
    import time

    return max(time.time(), store.stat().st_mtime)
