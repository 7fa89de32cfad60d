"""Checkpoints of a run: numbered atomic folders. A run resumes from the newest one that is intact."""

import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ..documents import json_bytes, read_json
from ..errors import DamagedFile, SoftPromptError
from ._folder import read_folder, remove_leftovers, write_folder
from ._values import read_tensors, tensor_bytes

KEPT = 2
TENSORS, STATE = "state.safetensors", "state.json"
# The second form is a checkpoint that was being replaced when the process was killed; `read_folder` finds it.
STEP_NAME = re.compile(r"step-(\d+)|\.step-(\d+)\.old")


@final
@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to continue as if it had never stopped.

    Args:
        step: number of optimiser steps done.
        tensors: tensors by name, with the same bits and dtypes as when they were saved.
        state: plain values.
    """

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(folder: str | Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write `folder/step-000123` atomically, then remove all checkpoints but the newest two.

    Args:
        folder: folder of the run's checkpoints, which is created if it does not exist.
        step: number of optimiser steps done.
        tensors: tensors of any dtype on any device, views included.
        state: plain values with string keys, NaN and infinity included. Tuples are read back as lists.

    Raises:
        StorageFailure: the disk is full or not writable. The earlier checkpoints stay intact.
    """
    folder = Path(folder)
    contents = {TENSORS: tensor_bytes(tensors), STATE: json_bytes(state, allow_nan=True)}
    path = write_folder(folder / _name(step), contents, what=f"the checkpoint of step {step}", replace=True)
    remove_leftovers(folder, "step-*")
    _remove_superseded(folder, step)
    return path


def latest_checkpoint(folder: str | Path) -> Checkpoint | None:
    """Read the newest intact checkpoint, or return None if there is no checkpoint. A warning names each damaged one.

    Raises:
        DamagedFile: there are checkpoints, and all of them are damaged.
    """
    return next(intact_checkpoints(folder), None)


def intact_checkpoints(folder: str | Path) -> Iterator[Checkpoint]:
    """Read the intact checkpoints, the newest first. A warning names each damaged one.

    Raises:
        DamagedFile: there are checkpoints, and all of them are damaged.
    """
    folder, are_all_damaged = Path(folder), True
    steps = _steps(folder)
    for step in reversed(steps):
        try:
            checkpoint = _load(folder, step)
        except SoftPromptError as error:
            logging.getLogger("softprompt").warning("checkpoint of step %d is not used: %s", step, error)
            continue
        are_all_damaged = False
        yield checkpoint
    if steps and are_all_damaged:
        raise DamagedFile(f"every checkpoint in {str(folder)!r} is damaged; restore one from a copy or train anew")


def _load(folder: Path, step: int) -> Checkpoint:
    files = read_folder(folder / _name(step))
    if not {TENSORS, STATE} <= files.keys():
        raise DamagedFile(f"{str(folder / _name(step))!r} lacks {TENSORS} or {STATE}; restore it from a copy")
    tensors = read_tensors(files[TENSORS], is_bounded=False)
    return Checkpoint(step, tensors, read_json(files[STATE], max_bytes=None))


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, in ascending order."""
    if not folder.is_dir():
        return []
    matches = (STEP_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted({int(match[1] or match[2]) for match in matches if match})


def _remove_superseded(folder: Path, step: int) -> None:
    """Remove all but the newest two checkpoints, and those after `step`.

    A checkpoint after `step` is damaged: otherwise the run would have resumed from it.
    """
    steps = _steps(folder)
    for other in {s for s in steps if s > step} | set([s for s in steps if s <= step][:-KEPT]):
        shutil.rmtree(folder / _name(other), ignore_errors=True)
