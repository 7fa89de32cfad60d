"""The folder of a run while it is trained: made, held by one process, watched, and removed if no step was trained."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import final

from ..errors import RunExists, StorageFailure, quoted
from ..run_layout import PLAN
from ..store import held_alone

LOCK = ".lock"
# What `write_file` and `write_folder` call what they write until it is whole.
TEMPORARY = ".*.????????.tmp"
# What a process that was killed before it wrote the plan may leave: no run, and nothing to go on from.
LEFTOVERS = (LOCK, f".{PLAN}.*.tmp")


@final
class HeldFolder:
    """A run's folder in which this process alone trains.

    Args:
        path: the folder; its lock is held.
    """

    def __init__(self, path: Path):
        self.path = path
        self.is_trained = False
        self._lock = _identity(path / LOCK)

    @property
    def is_gone(self) -> bool:
        """Whether the folder that is held no longer has this path."""
        try:
            return _identity(self.path / LOCK) != self._lock
        except OSError:
            return True

    def sweep(self) -> None:
        """Remove the files and folders that a killed process had not renamed into their places yet."""
        for path in sorted(self.path.rglob(TEMPORARY)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file():
                path.unlink(missing_ok=True)

    def refuse_gone(self) -> None:
        """Stop before anything is written to a path that is no longer the run's.

        Raises:
            StorageFailure: the folder was moved or deleted.
        """
        if self.is_gone:
            raise StorageFailure(
                f"{self.path} was moved or deleted while it was trained, so training has ended; where it was moved, "
                "go on with: softprompt train --resume NEW-PLACE"
            )


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[HeldFolder]:
    """Within, a new folder in which this process alone trains; afterwards it is gone if no step was trained.

    Raises:
        RunExists: it holds something, or another process trains in it.
        StorageFailure: it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailure(f"cannot make {folder}: {error.strerror}; choose another --output") from error
        with alone_in(folder) as held:
            # Once more, now that no other process can come between this look and the plan.
            refuse_used(folder)
            try:
                yield held
            except BaseException:
                if not held.is_trained and not held.is_gone:
                    _empty(folder)
                raise
    finally:
        for path in missing:
            # A folder that holds anything stays.
            with contextlib.suppress(OSError):
                path.rmdir()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[HeldFolder]:
    """Within, no other process trains in this folder; the lock ends with the process, also by SIGKILL.

    Raises:
        RunExists: another process does.
        StorageFailure: the lock cannot be made.
    """
    taken = RunExists(f"another process is training in {folder}; wait for it, or choose another --output")
    with held_alone(folder / LOCK, taken, to=f"train in {folder}", remedy="choose a folder to write to"):
        yield HeldFolder(folder)


def is_held(folder: Path) -> bool:
    """Whether a process of this machine trains in this folder now.

    It does not wait. It takes the lock for a moment, which `held_alone` waits for, and changes nothing.
    """
    from filelock import FileLock, Timeout

    if not (folder / LOCK).is_file():
        return False
    try:
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:
        # In a folder that cannot be written nobody trains.
        return False


def refuse_used(folder: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        RunExists: with what to do.
    """
    if (folder / PLAN).exists():
        raise RunExists(
            f"{folder} already holds a run; continue it with --resume {quoted(folder)}, or choose another --output"
        )
    if not folder.exists():
        return
    if not folder.is_dir() or any(not _is_left(entry) for entry in folder.iterdir()):
        raise RunExists(f"{folder} is not empty; choose another --output")


def _is_left(entry: Path) -> bool:
    return any(entry.match(pattern) for pattern in LEFTOVERS)


def _empty(folder: Path) -> None:
    """Remove what is in a folder, the lock last: until then no other process comes in."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == LOCK):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                entry.unlink()


def _identity(path: Path) -> tuple[int, int]:
    """What distinguishes a file from another file that has taken its path."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
