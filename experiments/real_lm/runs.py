"""Train the pieces of the study on one loaded model, and keep one JSON a cell: what every prompt of an arm scored."""

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import softprompt
import torch
from softprompt.backbones import AbstractBackbone
from softprompt.training import read_results, without_advice

from ..common.runs import run_in
from .arms import ARMS
from .design import SIZES, Piece, Try
from .results import Folder
from .tasks import cut_rows, study_task


def load(model: str, memory_share: float = 1.0, *, tf32: bool = False) -> AbstractBackbone:
    """Load the frozen model once.

    Args:
        model: folder, GGUF file or name.
        memory_share: of a GPU's memory; passes that need more are split.
        tf32: whether a GPU multiplies float32 with ten binary digits, some ten times as fast.
    """
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(memory_share)
    return softprompt.load_backbone(model)


def train_missing(
    piece: Piece, backbone: AbstractBackbone, folder: Folder, data_root: Path, quick: Try | None = None
) -> bool:
    """Train a piece that has no results yet; returns whether it has them now.

    Several processes may work on one folder: a piece that another one holds is left to it. A piece that was killed
    goes on from its last checkpoint.

    Args:
        piece: what is trained.
        backbone: the frozen model.
        folder: results and runs.
        data_root: folder with the rows.
        quick: a try; None is the study itself.
    """
    if folder.has(piece):
        return True
    with held(folder, piece.name) as is_ours:
        if is_ours and not folder.has(piece):
            begun = time.monotonic()
            folder.keep(piece, train_piece(piece, backbone, folder, data_root, quick))
            print(f"{piece.name}: {len(piece.prompts())} prompts, {time.monotonic() - begun:.0f} s", flush=True)
    return folder.has(piece)


@contextlib.contextmanager
def held(folder: Folder, name: str) -> Iterator[bool]:
    """Whether this process has a part of the study to itself."""
    (folder.work / "locks").mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.work / "locks" / name)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def train_piece(
    piece: Piece, backbone: AbstractBackbone, folder: Folder, data_root: Path, quick: Try | None = None
) -> list[dict[str, Any]]:
    """Train a piece, or go on with it; one record a prompt."""
    cut_rows(piece.task, data_root, folder.rows, quick and quick.scored_rows)
    run = folder.runs / piece.name
    steps = 1 if piece.untrained else quick and quick.steps
    size = SIZES[piece.size].with_steps(steps) if steps else SIZES[piece.size]
    with without_advice():
        run_in(
            run,
            study_task(piece.task, folder.rows, bare=piece.bare),
            backbone,
            prompts=[prompt for _, prompt in piece.prompts()],
            settings=size.settings(piece.loss),
        )
    records = [
        _record(arm, result.to_json()) for (arm, _), result in zip(piece.prompts(), read_results(run), strict=True)
    ]
    # Prompts and checkpoints of some thousand runs would fill the disk.
    shutil.rmtree(run)
    return records


def _record(arm: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables read of a prompt's result. One that was dropped unscored answers the most frequent class."""
    known = {split: values["accuracy"] for split, values in result["metrics"].items()}
    metrics = dict.fromkeys(("validation", "test"), result["majority"]) | known
    kept = ("seed", "lr", "units", "best_step", "trainable", "stored", "majority", "token_norms", "status")
    trained = {"trainable": 0} if ARMS[arm].untrained else {}
    return {"arm": arm, "loss": ARMS[arm].loss, **metrics, **{name: result[name] for name in kept}, **trained}
