"""SIGKILL at random moments, again and again: what goes on has to end with the bytes of what was left alone."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from small_runs import different, ended, forked, killed

# Seconds after which a command counts as hanging.
PATIENCE = 600
# Seconds that a stalled process stands still: longer than the lease of the scenario that stalls.
STALL = 3.0


@dataclass(frozen=True)
class Scenario:
    """A command that can be killed.

    Args:
        start: begins in a folder.
        go_on: goes on with what is there.
        is_started: whether there is something to go on with.
        processes: how many do this at once.
        once: a pattern of files that nobody may write again once they are there.
        stalls: whether the first process is stopped for some seconds and woken up again, before any is killed.
        needs_folder: whether the folder has to be there before the command begins.
        saved: a pattern of what each of its work folders saves on the way. After three processes that died before they
            had saved anything a study trains the runs of a fleet alone, so all but every third kill waits for that.
    """

    start: Callable[[Path], object]
    go_on: Callable[[Path], object]
    is_started: Callable[[Path], bool] = lambda folder: (folder / "run.json").exists()
    processes: int = 1
    once: str = ""
    stalls: bool = False
    needs_folder: bool = False
    saved: str = ""

    def prepare(self, folder: Path) -> None:
        """Make the folder where the command itself does not."""
        if self.needs_folder:
            folder.mkdir(exist_ok=True)

    def step(self, folder: Path) -> object:
        """Begin or go on."""
        return self.go_on(folder) if self.is_started(folder) else self.start(folder)


@dataclass
class Written:
    """Files that are written once: the marks that they had when they were first seen, and those that changed.

    Args:
        pattern: of their paths.
        marks: number and time of each file.
        again: paths that were written again.
    """

    pattern: str
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)

    def look(self, folder: Path) -> None:
        """Note new files, and those that are others than before."""
        for path in folder.glob(self.pattern) if self.pattern else ():
            status, name = path.stat(), str(path.relative_to(folder))
            mark = (status.st_ino, status.st_mtime_ns)
            if self.marks.setdefault(name, mark) != mark:
                self.again.add(name)


def campaign(scenario: Scenario, place: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill a command until so many processes are dead, and begin anew whenever it has ended.

    Returns:
        The number of kills and of whole runs, the files that differ or were written twice, and commands that failed.
    """
    draw, bad = random.Random(seed), []
    place.mkdir(parents=True, exist_ok=True)
    whole, target, log = place / "whole", place / "work", place / "log"
    begun = time.monotonic()
    # Both work at the same path, because some files name others by their whole path.
    scenario.prepare(target)
    if ended(forked(lambda: scenario.start(target), log), PATIENCE) != 0:
        return {"kills": 0, "stalls": 0, "runs": 0, "failed": [log.read_text()[-500:]], "different": [], "again": []}
    took = time.monotonic() - begun
    target.rename(whole)
    kills = stalls = rounds = 0
    wrong: set[str] = set()
    again: set[str] = set()
    written = Written(scenario.once)
    while kills + stalls < count or rounds == 0:
        if scenario.stalls and kills + stalls < count:
            stalls += _stalled(scenario, target, log, draw.uniform(0.02, took / 2))
            written.look(target)
        scenario.prepare(target)
        waits = bool(scenario.saved) and kills + stalls < count and draw.random() < 2 / 3
        # The last time nobody is killed.
        seconds = draw.uniform(0.02, took / 4 if waits else took) if kills + stalls < count else PATIENCE
        dead, code = _once(scenario, target, log, waits, seconds)
        kills += dead
        written.look(target)
        if dead:
            continue
        if code:
            bad.append(log.read_text()[-500:])
        rounds += 1
        wrong |= set(different(whole, target))
        again |= written.again
        shutil.rmtree(target, ignore_errors=True)
        written = Written(scenario.once)
    found = {"kills": kills, "stalls": stalls, "runs": rounds, "different": sorted(wrong), "again": sorted(again)}
    return {**found, "failed": bad}


def _once(scenario: Scenario, folder: Path, log: Path, waits: bool, seconds: float) -> tuple[int, int]:
    """Work on a folder for so long: how many processes were killed, and what one that failed ended with.

    Args:
        scenario: what works.
        folder: its place.
        log: takes what it says.
        waits: whether the time begins when each work folder has saved something.
        seconds: the time.
    """
    before = _saved(scenario, folder)
    running = [forked(lambda: scenario.step(folder), log) for _ in range(scenario.processes)]
    if waits:
        _wait_for_saves(scenario, folder, before, running)
    end, codes = time.monotonic() + seconds, []
    for pid in running:
        code = ended(pid, max(end - time.monotonic(), 0.001))
        if code is None:
            killed(pid)
        codes.append(code)
    return codes.count(None), next((code for code in codes if code), 0)


def _saved(scenario: Scenario, folder: Path) -> dict[str, set[str]]:
    """What each work folder has saved, by its name."""
    found: dict[str, set[str]] = {path.name: set() for path in folder.glob("fleets/*")}
    for path in folder.glob(scenario.saved) if scenario.saved else ():
        found.setdefault(path.relative_to(folder).parts[1], set()).add(path.name)
    return found


def _wait_for_saves(scenario: Scenario, folder: Path, before: dict[str, set[str]], running: list[int]) -> None:
    """Wait until every work folder has saved something more, or a process has ended."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        now = _saved(scenario, folder)
        if now and all(steps - before.get(name, set()) for name, steps in now.items()):
            return
        if any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in running):
            return
        time.sleep(0.01)


def _stalled(scenario: Scenario, folder: Path, log: Path, seconds: float) -> int:
    """Let a process stand still until another has its lease, wake it up, and let all end; whether it stood still."""
    first = forked(lambda: scenario.step(folder), log)
    if ended(first, seconds) is not None:
        return 0
    os.kill(first, signal.SIGSTOP)
    others = [forked(lambda: scenario.step(folder), log) for _ in range(scenario.processes - 1)]
    time.sleep(STALL)
    os.kill(first, signal.SIGCONT)
    for pid in (*others, first):
        ended(pid, PATIENCE)
    return 1
