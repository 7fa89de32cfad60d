"""A lock beside what one process alone may change."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import SoftPromptError, StorageFailure

# How long is waited for a process that only looks whether the lock is held, as a report does.
LOOK_SECONDS = 0.2


@contextlib.contextmanager
def held_alone(lock: Path, taken: SoftPromptError, *, to: str, remedy: str) -> Iterator[None]:
    """Within, this process alone holds a lock; it ends with the process, also by SIGKILL.

    Args:
        lock: the file of the lock; it and its folder are made.
        taken: what is raised where another process holds it.
        to: what is done within, for messages: "train in runs/a".
        remedy: what to do where the file cannot be made.

    Raises:
        SoftPromptError: `taken`.
        StorageFailure: the file cannot be made.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=LOOK_SECONDS)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout as error:
        raise taken from error
    except OSError as error:
        raise StorageFailure(f"cannot {to}: {error.strerror}; {remedy}") from error
    try:
        yield
    finally:
        held.release()
