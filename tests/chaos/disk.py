"""Disks that fail: each write, flush, rename and new folder of a run in turn, once or from then on."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from small_runs import different, ended, forked

from kills import Scenario

PATIENCE = 600
FAILURES = ((errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, False), (errno.EROFS, True))


class Disk:
    """Counts the calls that change a folder, and lets one of them fail, or all from this one on.

    Args:
        folder: whose calls count.
        at: the number of the call that fails, from 1.
        error: its errno.
        for_good: whether all later calls fail too.
    """

    def __init__(self, folder: Path, at: int, error: int = errno.ENOSPC, for_good: bool = False):
        self.folder, self.at, self.error, self.for_good = str(folder.absolute()), at, error, for_good
        self.calls = 0

    def touch(self, path: Any) -> None:
        """A call that changes this path."""
        if not str(path).startswith(self.folder):
            return
        self.calls += 1
        if self.calls == self.at or (self.for_good and self.calls > self.at):
            raise OSError(self.error, os.strerror(self.error), str(path))


class File:
    """An open file whose writes the disk may refuse; half of what is refused is written."""

    def __init__(self, file: Any, path: Path, disk: Disk):
        self.file, self.path, self.disk = file, path, disk

    def write(self, content: Any) -> int:
        """Write, or fail half-way."""
        try:
            self.disk.touch(self.path)
        except OSError:
            self.file.write(bytes(content)[: len(content) // 2])
            raise
        return self.file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


@contextlib.contextmanager
def failing(disk: Disk) -> Iterator[None]:
    """Within the block, the calls of this process go through the disk."""
    opened, kept = Path.open, {name: getattr(os, name) for name in ("fsync", "rename", "replace", "mkdir")}

    def open_(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        file = opened(self, mode, *rest, **named)
        return File(file, self.absolute(), disk) if "b" in mode and "r" not in mode else file

    def through(name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            # A rename changes its second path.
            place = given[1] if name in ("rename", "replace") else given[0]
            disk.touch(os.readlink(f"/proc/self/fd/{place}") if name == "fsync" else place)
            return kept[name](*given, **named)

        return call

    Path.open = open_  # type: ignore[method-assign]  (a fault is planted)
    for name in kept:
        setattr(os, name, through(name))
    try:
        yield
    finally:
        Path.open = opened  # type: ignore[method-assign]  (a fault is planted)
        for name, function in kept.items():
            setattr(os, name, function)


def count_calls(scenario: Scenario, folder: Path, log: Path) -> int:
    """Let a command do its work in a folder; how many of its calls change that folder."""

    def counted() -> None:
        disk = Disk(folder, 0)
        with failing(disk):
            scenario.start(folder)
        os.write(1, f"\ncalls {disk.calls}".encode())

    scenario.prepare(folder)
    if ended(forked(counted, log), PATIENCE) != 0:
        raise RuntimeError(log.read_text()[-2000:])
    return int(log.read_text().rsplit("calls ", 1)[1])


def attempt(scenario: Scenario, whole: Path, log: Path, disk: Disk) -> str:
    """Let a command fail, then go on; what is wrong, or nothing.

    Args:
        scenario: the command.
        whole: what it leaves when nothing fails.
        log: takes what it says.
        disk: fails.
    """
    folder = Path(disk.folder)
    scenario.prepare(folder)

    def work() -> object:
        with failing(disk):
            return scenario.start(folder)

    code, said = ended(forked(work, log), PATIENCE), log.read_text()
    # 0 is a failure that nothing depends on, such as that of a removal.
    if code not in (0, 2) or "Traceback" in said:
        return f"exit {code}: {said[-300:]}"
    # The library's own lines of advice may stand before, and what a command that goes on prints at its end.
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("softprompt: ")]
    if code == 2 and len(lines) > 1:
        return f"more than a line: {said[-300:]}"
    scenario.prepare(folder)
    code = ended(forked(lambda: scenario.step(folder), log), PATIENCE)
    if code != 0:
        return f"did not go on, exit {code}: {log.read_text()[-300:]}"
    wrong = different(whole, folder)
    return f"differs in {wrong}" if wrong else ""


def campaign(scenario: Scenario, place: Path, most: int) -> dict[str, Any]:
    """Let every call of a command fail in turn, each time with another error; at most so many, spread over all of them.

    Returns:
        The number of calls, of those that failed, and what was wrong.
    """
    place.mkdir(parents=True, exist_ok=True)
    folder, whole, log = place / "work", place / "whole", place / "log"
    calls = count_calls(scenario, folder, log)
    # All work at the same path, because some files name others by their whole path.
    folder.rename(whole)
    chosen = sorted({1 + calls * number // most for number in range(most)}) if calls > most else range(1, calls + 1)
    wrong = []
    for number, at in enumerate(chosen):
        error, for_good = FAILURES[number % len(FAILURES)]
        if said := attempt(scenario, whole, log, Disk(folder, at, error, for_good)):
            wrong.append(f"call {at}, {os.strerror(error)}: {said}")
        shutil.rmtree(folder, ignore_errors=True)
    return {"calls": calls, "failed": len(chosen), "bad": wrong}
