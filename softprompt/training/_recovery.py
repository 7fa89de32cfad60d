"""What a run must find before it goes on: records that can be read."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..documents import check_shape, in_file, line_places, refuse_no_name
from ..errors import DamagedFile
from ..legacy import renamed
from ..run_layout import CHECKPOINTS, METRICS, RESTARTS, TIMING
from ..store import Checkpoint, intact_checkpoints
from ._records import damaged_lines, too_short
from ._restarts import record_of

log = logging.getLogger("softprompt")


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint says besides its tensors, as far as a run goes on by it."""

    step: int
    timing_bytes: int
    prompts: tuple[Mapping[str, Any], ...]
    data: str = ""
    memory_budget: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedMember:
    """What it says of a prompt, or of a candidate for one."""

    name: str
    status: str
    best_step: int
    best_metrics: Mapping[str, Any]
    stale: int
    recorded_bytes: int
    restarts: Mapping[str, Any] = field(default_factory=dict)


def last_good(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that is intact and whose records are there; None where the run has none.

    Raises:
        DamagedFile: there are checkpoints, and none of them can be gone on from.
    """
    refused: DamagedFile | None = None
    for checkpoint in intact_checkpoints(folder / CHECKPOINTS):
        try:
            state = renamed(checkpoint.state)
            with in_file(f"{folder / 'checkpoints'}, step {checkpoint.step}"):
                check_shape(SavedState, state, is_open=True)
                for member in state["prompts"]:
                    check_shape(SavedMember, member, is_open=True)
                    refuse_no_name(member["name"])
            check_records(folder, state)
        except DamagedFile as error:
            refused = refused or error
            log.warning("checkpoint of step %d is not used: %s", checkpoint.step, error.message)
        else:
            return checkpoint
    if refused:
        raise refused
    return None


def check_records(folder: Path, state: Mapping[str, Any]) -> None:
    """Warn of damaged lines in records that only tell what was; refuse those that training still needs.

    Args:
        folder: of the run.
        state: of the checkpoint that it goes on from.

    Raises:
        DamagedFile: a record is shorter than the checkpoint says, or restarts are to be compared by a damaged one.
    """
    for path, needed in _marks(folder, state):
        size = path.stat().st_size if path.exists() else 0
        if size < needed:
            raise DamagedFile(too_short(path, size, needed))
    for path in sorted(_undecided(folder, state)):
        if lines := damaged_lines(path):
            raise DamagedFile(
                f"{path} is damaged in {line_places(lines)}, and restarts are still to be compared by it; restore it "
                "from a copy, or start a new run"
            )
    for path in (
        folder / TIMING,
        *sorted(folder.glob("*/*.jsonl")),
        *sorted(folder.glob(f"*/{RESTARTS}/*.jsonl")),
    ):
        if lines := damaged_lines(path):
            log.warning("%s is damaged in %s, which is left out of curves and times", path, line_places(lines))


def _marks(folder: Path, state: Mapping[str, Any]) -> Iterator[tuple[Path, int]]:
    """Each record that goes on, and how many bytes of it the checkpoint needs."""
    yield folder / TIMING, state["timing_bytes"]
    for member in state["prompts"]:
        yield _path_of(folder, member["name"]), member["recorded_bytes"]


def _undecided(folder: Path, state: Mapping[str, Any]) -> set[Path]:
    """The records of restarts none of which is chosen yet."""
    return {_path_of(folder, member["name"]) for member in state["prompts"] if "#" in member["name"]}


def _path_of(folder: Path, name: str) -> Path:
    """The record of a prompt, or of the candidate for one, whose name ends in #0, #1 ..."""
    member, sign, number = name.partition("#")
    return record_of(folder / member, int(number)) if sign else folder / member / METRICS
