"""SIGKILL at random moments, again and again: what goes on has to end with the bytes of what was left alone."""

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_runs import different, ended, forked, killed

# Seconds after which a command counts as hanging.
PATIENCE = 600


@dataclass(frozen=True)
class Scenario:
    """A command that can be killed.

    Args:
        start: begins in a folder.
        go_on: goes on with what is there.
        is_started: whether there is something to go on with.
        processes: how many do this at once.
    """

    start: Callable[[Path], object]
    go_on: Callable[[Path], object]
    is_started: Callable[[Path], bool] = lambda folder: (folder / "run.json").exists()
    processes: int = 1

    def step(self, folder: Path) -> object:
        """Begin or go on."""
        return self.go_on(folder) if self.is_started(folder) else self.start(folder)


def campaign(scenario: Scenario, place: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill a command so many times, and begin anew whenever it has ended.

    Returns:
        The number of kills and of whole runs, the files that differ, and commands that failed.
    """
    draw, bad = random.Random(seed), []
    place.mkdir(parents=True, exist_ok=True)
    whole, target, log = place / "whole", place / "killed", place / "log"
    begun = time.monotonic()
    if ended(forked(lambda: scenario.start(whole), log), PATIENCE) != 0:
        return {"kills": 0, "failed": [log.read_text()[-500:]], "different": []}
    took = time.monotonic() - begun
    kills = rounds = 0
    wrong: set[str] = set()
    while kills < count or rounds == 0:
        code = _once(scenario, target, log, draw.uniform(0.02, took) if kills < count else PATIENCE)
        if code is None:
            kills += 1
            continue
        if code:
            bad.append(log.read_text()[-500:])
        rounds += 1
        wrong |= set(different(whole, target))
        shutil.rmtree(target, ignore_errors=True)
    return {"kills": kills, "runs": rounds, "different": sorted(wrong), "failed": bad}


def _once(scenario: Scenario, folder: Path, log: Path, seconds: float) -> int | None:
    """Work on a folder until it is done or its time is over; None if it was killed."""
    running = [forked(lambda: scenario.step(folder), log) for _ in range(scenario.processes)]
    end, codes = time.monotonic() + seconds, []
    for pid in running:
        code = ended(pid, max(end - time.monotonic(), 0.001))
        if code is None:
            killed(pid)
        codes.append(code)
    failed = [code for code in codes if code]
    return failed[0] if failed else None if None in codes else 0
