"""Checkpoints of a run: numbered atomic folders; a run goes on from the newest that verifies."""

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ..errors import DamagedFile, SoftPromptError
from ._folder import read_folder, remove_leftovers, write_folder
from ._values import json_bytes, read_json, read_tensors, tensor_bytes

KEPT = 2
TENSORS, STATE = "state.safetensors", "state.json"
# A step that was being replaced when the process was killed counts too; `read_folder` finds it.
STEP_NAME = re.compile(r"step-(\d+)|\.step-(\d+)\.old")


@final
@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Args:
        step: optimiser steps done.
        tensors: by name, with the bits and dtypes they were saved with.
        state: plain values.
    """

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(folder: str | Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write `folder/step-000123` atomically; then keep the newest two and remove older ones.

    Args:
        folder: the run's checkpoints; made if it is not there.
        step: optimiser steps done.
        tensors: any dtype, any device; views are fine.
        state: plain values with string keys, NaN and infinity included; tuples come back as lists.

    Raises:
        StorageFailure: the disk is full or not writable; the checkpoints before are intact.
    """
    folder = Path(folder)
    contents = {TENSORS: tensor_bytes(tensors), STATE: json_bytes(state, allow_nan=True)}
    path = write_folder(folder / _name(step), contents, what=f"the checkpoint of step {step}", replace=True)
    remove_leftovers(folder, "step-*")
    _remove_superseded(folder, step)
    return path


def latest_checkpoint(folder: str | Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None if there is none; each damaged one is named in a warning.

    Raises:
        DamagedFile: there are checkpoints and every one is damaged.
    """
    folder = Path(folder)
    steps = _steps(folder)
    for step in reversed(steps):
        try:
            return _load(folder, step)
        except SoftPromptError as error:
            logging.getLogger("softprompt").warning("checkpoint of step %d is not used: %s", step, error)
    if steps:
        raise DamagedFile(f"every checkpoint in {str(folder)!r} is damaged; restore one from a copy or train anew")
    return None


def _load(folder: Path, step: int) -> Checkpoint:
    files = read_folder(folder / _name(step))
    if not {TENSORS, STATE} <= files.keys():
        raise DamagedFile(f"{str(folder / _name(step))!r} lacks {TENSORS} or {STATE}; restore it from a copy")
    tensors = read_tensors(files[TENSORS], max_elements=None)
    return Checkpoint(step, tensors, read_json(files[STATE], max_bytes=None))


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint, ascending."""
    if not folder.is_dir():
        return []
    found = (STEP_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted({int(match[1] or match[2]) for match in found if match})


def _remove_superseded(folder: Path, step: int) -> None:
    """Remove all but the newest two, and what lies beyond `step`: damaged, else the run had resumed there."""
    steps = _steps(folder)
    for other in {s for s in steps if s > step} | set([s for s in steps if s <= step][:-KEPT]):
        shutil.rmtree(folder / _name(other), ignore_errors=True)
