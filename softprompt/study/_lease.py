"""Who trains a work folder: a lease, which its owner renews and which passes on when the owner dies or stalls.

    STORE/fleets/<id>/lease.json     the owner; the time of its last change is the last renewal
    STORE/fleets/<id>/.run.lock      locked by the owner; the lock ends with the process, also by SIGKILL

On one machine the lock says at once that an owner has died. Between machines, and of a process that is stopped, only
the time says it. Such an owner may wake up later and write again. So the next one works in a copy of the run folder,
and the old one finds its folder gone. Times are those of the file system, because clocks of machines differ.
"""

import contextlib
import json
import os
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from ..errors import LeaseLost

if TYPE_CHECKING:
    from filelock import FileLock

LEASE = "lease.json"
# An owner that has not renewed its lease for so long has lost it.
SECONDS = 120.0
# A lease is renewed so many times before it would end.
RENEWALS = 6
# A lease that stands there and cannot be read is read so many times, so many seconds apart, before it counts as lost.
READS, PAUSE_SECONDS = 5, 0.5
_FIELDS: dict[str, Any] = {
    "token": str, "host": str, "pid": int, "seconds": int | float, "deaths": int, "step": int,
}  # fmt: skip
_UNREADABLE = (OSError, ValueError, RecursionError)


@final
@dataclass(frozen=True)
class Lease:
    """The right of this process to train a work folder and to store its runs.

    Args:
        folder: the work folder.
        run: name of the run folder in it.
        token: what tells this lease from any other.
        seconds: how long it lasts without a renewal.
        deaths: owners in a row that were gone before they had saved a new checkpoint.
        lock: held until the lease is released.
    """

    folder: Path
    run: str
    token: str
    seconds: float
    deaths: int
    lock: "FileLock"

    @property
    def is_ours(self) -> bool:
        """Whether no other process has taken over; False of a lease that cannot be read for some time, too."""
        for attempt in range(READS):
            if attempt:
                time.sleep(PAUSE_SECONDS)
            # A network file system may fail once, or show half a file.
            with contextlib.suppress(*_UNREADABLE):
                values = _standing(self.folder)
                return values is not None and values["token"] == self.token
        return False

    def _token(self) -> str | None:
        """That of the lease in the folder; None where none can be read."""
        return (_read(self.folder) or {}).get("token")

    def refuse_lost(self) -> None:
        """Stop before anything is written that is another process's by now.

        Raises:
            LeaseLost: another process has taken over.
        """
        if not self.is_ours:
            raise LeaseLost(self.loss)

    @property
    def loss(self) -> str:
        """What to say when another process has taken over."""
        return (
            f"another process has taken over {self.folder}, because this one stood still for more than "
            f"{self.seconds:g} seconds"
        )

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Within, a thread renews the lease."""
        ended = threading.Event()

        def renew() -> None:
            # A lease that cannot be read at the moment may still be ours; who takes over writes another token.
            while not ended.wait(self.seconds / RENEWALS) and self._token() in (self.token, None):
                with contextlib.suppress(OSError):
                    os.utime(self.folder / LEASE)

        thread = threading.Thread(target=renew, daemon=True, name="lease")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def release(self) -> None:
        """End the lease; a folder that stays is then free for any process."""
        if self.is_ours:
            (self.folder / LEASE).unlink(missing_ok=True)
        self.lock.release()


def take(store: Path, folder: Path, run: str, seconds: float) -> Lease | None:
    """A lease on a work folder, or None if another process has it. The store's lock must be held.

    Args:
        store: the folder of the store.
        folder: the work folder.
        run: name of the run folder in it. Where its owner may still wake up, the lease is on a copy of another name.
        seconds: how long the new lease lasts without a renewal.
    """
    try:
        before = _standing(folder)
    except _UNREADABLE:
        # It may be another machine's, whose lock does not reach here.
        if not _has_ended(store, folder):
            return None
        before = None
    lock = _try_lock(folder, run)
    is_here = before is None or before["host"] == machine()
    if lock is not None and is_here:
        return _new(folder, run, seconds, before, lock)
    if lock is not None:
        lock.release()
    if before is None or _age(store, folder) <= before["seconds"]:
        return None
    moved = _copied(folder, run)
    if moved is None:
        return None
    lock = _try_lock(folder, moved)
    assert lock is not None, "the name of the copy is new"
    return _new(folder, moved, seconds, before, lock)


def owner(folder: Path) -> dict[str, Any] | None:
    """Who holds the lease of a work folder: host, pid, and the second of the last renewal; None if nobody does."""
    values = _read(folder)
    if values is None:
        return None
    with contextlib.suppress(OSError):
        values["renewed"] = (folder / LEASE).stat().st_mtime
    return values


def machine() -> str:
    """A name of this machine since its start: process numbers and local locks mean nothing beyond it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{platform.node()}/{boot.read_text().strip()[:8]}" if boot.is_file() else platform.node()


def _new(folder: Path, run: str, seconds: float, before: Mapping[str, Any] | None, lock: "FileLock") -> Lease:
    from ..store import write_file

    step = _newest_step(folder / run)
    deaths = 0 if before is None or before["step"] != step else before["deaths"] + 1
    lease = Lease(folder, run, uuid.uuid4().hex, seconds, deaths, lock)
    values = {"token": lease.token, "host": machine(), "pid": os.getpid(), "seconds": seconds}
    content = json.dumps({**values, "deaths": deaths, "step": step}).encode()
    try:
        write_file(folder / LEASE, content, what="a lease", replace=True)
    except BaseException:
        lock.release()
        raise
    return lease


def _read(folder: Path) -> dict[str, Any] | None:
    """The lease of a folder; None where there is none that can be read."""
    with contextlib.suppress(*_UNREADABLE):
        return _standing(folder)
    return None


def _standing(folder: Path) -> dict[str, Any] | None:
    """The lease of a folder; None where there is none.

    Raises:
        OSError: it cannot be read at the moment.
        ValueError: what stands there was not written by a process of ours, or not all of it is there.
        RecursionError: what stands there is nested without end.
    """
    try:
        content = (folder / LEASE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    values = json.loads(content)
    if not isinstance(values, dict) or not all(
        isinstance(values.get(name), kind) and not isinstance(values[name], bool) for name, kind in _FIELDS.items()
    ):
        raise ValueError(f"{folder / LEASE} is no lease")
    return values


def _age(store: Path, folder: Path) -> float:
    """Seconds since the last renewal, by the clock of the file system."""
    now = store / ".lock"
    os.utime(now)
    return now.stat().st_mtime - (folder / LEASE).stat().st_mtime


def _has_ended(store: Path, folder: Path) -> bool:
    """Whether a lease that cannot be read was last renewed so long ago that its owner has lost it."""
    try:
        return _age(store, folder) > SECONDS
    except OSError:
        return False


def _newest_step(run: Path) -> int:
    names = (path.name.rpartition("-")[2] for path in run.glob("checkpoints/step-*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def _copied(folder: Path, run: str) -> str | None:
    """Copy the work to a new run folder whose files the earlier owner does not hold open; its name.

    None if it cannot be copied now, as when the owner writes after all.
    """
    name = f"run-{int(run.partition('-')[2] or 1) + 1}"
    shutil.rmtree(folder / name, ignore_errors=True)
    if (folder / run).is_dir():
        try:
            shutil.copytree(folder / run, folder / name, ignore=shutil.ignore_patterns(".lock", ".*.tmp"))
        except OSError:
            shutil.rmtree(folder / name, ignore_errors=True)
            return None
    return name


def _try_lock(folder: Path, run: str) -> "FileLock | None":
    from filelock import FileLock, Timeout

    lock = FileLock(folder / f".{run}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock
