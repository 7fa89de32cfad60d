"""Runs that failed: why, in the store, so that no process tries them again unless it is told to."""

import shutil
import traceback
from collections.abc import Iterable
from pathlib import Path

from ..errors import SoftPromptError
from ._spec import RunSpec

FAILED = "failed"
TRACEBACK = "traceback.txt"


def mark_failed(store: Path, spec: RunSpec, error: BaseException) -> Path:
    """Keep what a run failed with; the folder.

    Raises:
        StorageFailure: the store cannot be written.
    """
    from ..store import write_file

    text = f"{reason(error)}\n\n{spec.describe()}\n\n{''.join(traceback.format_exception(error))}"
    folder = store / FAILED / spec.name
    write_file(folder / TRACEBACK, text.encode(errors="replace"), what="a traceback", replace=True)
    return folder


def reason(error: BaseException) -> str:
    """One line that says what went wrong."""
    message = error.message if isinstance(error, SoftPromptError) else f"{type(error).__name__}: {error}"
    return " ".join(message.split())


def failed_names(store: Path) -> set[str]:
    """Names of the runs that failed; a folder without a reason was left by a process that was killed."""
    return {path.parent.name for path in (store / FAILED).glob(f"*/{TRACEBACK}")}


def failure_of(store: Path, name: str) -> str | None:
    """Why a run failed, in one line; None if it did not."""
    try:
        with (store / FAILED / name / TRACEBACK).open(encoding="utf-8") as file:
            return file.readline().strip()
    except FileNotFoundError:
        return None


def forget_failures(store: Path, names: Iterable[str]) -> None:
    """Let these runs be trained again."""
    for name in names:
        shutil.rmtree(store / FAILED / name, ignore_errors=True)
