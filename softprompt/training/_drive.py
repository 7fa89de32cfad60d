"""Runs a loop to its end: checkpoints, signals, progress bar, tracker, and a check that the folder still exists."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from ..errors import Interrupted
from ..run_layout import CHECKPOINTS
from ..store import save_checkpoint
from ._callbacks import Listeners
from ._folder import HeldFolder
from ._keywords import how_to_go_on
from ._loop import Loop
from ._plan import Plan
from ._progress import bar, ended_by_sigterm, interruptible, tracker


def drive(loop: Loop, held: HeldFolder, progress: bool, listeners: Listeners) -> None:
    """Train what is left.

    Raises:
        CallbackFailed: a callback of the user raised; a checkpoint is saved.
        Interrupted: after Ctrl-C; a checkpoint is saved.
        StorageFailure: the folder is full, or was moved or deleted.
    """
    plan, folder = loop.run_data.plan, held.path

    def save(loop: Loop) -> None:
        held.refuse_gone()
        tensors = {
            f"{i}/{name}": value for i, member in enumerate(loop.members) for name, value in member.tensors().items()
        }
        state = {"step": loop.step, "data": loop.run_data.fingerprint, "timing_bytes": loop.timing.mark()}
        state |= {"memory_budget": loop.memory_budget.state(), "prompts": [x.state() for x in loop.members]}
        save_checkpoint(folder / CHECKPOINTS, loop.step, tensors, state)

    with (
        fast_denormals(),
        tracker(plan.log_with, folder, plan.to_json()) as track,
        bar(progress) as show,
        interruptible() as is_stopped,
    ):

        def watch(loop: Loop, losses: dict[str, float]) -> None:
            held.is_trained = True
            held.refuse_gone()
            show(loop, losses)
            track(loop, losses)
            listeners.step(loop, losses)

        complete = loop.run(
            save=save,
            # All processes of the run stop after the same step.
            is_stopped=lambda: loop.processes.any(is_stopped() or listeners.failure is not None),
            watch=watch,
            judged=listeners.evaluation,
        )
    listeners.raise_failure()
    if not complete:
        raise Interrupted(
            f"stopped after step {loop.step} of {loop.steps}; go on with: {how_to_go_on(plan.task, folder)}"
        )


@contextlib.contextmanager
def finishing(plan: Plan, folder: Path) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the scoring at once, and it is told how to go on: the last checkpoint is saved.

    Raises:
        Interrupted: after either.
    """
    try:
        with ended_by_sigterm():
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"stopped after the last step, before the scores were stored; go on with: {how_to_go_on(plan.task, folder)}"
        ) from error


@contextlib.contextmanager
def fast_denormals() -> Iterator[None]:
    """Numbers below 1e-38 become 0 within: softmax tails underflow, and a CPU computes with them at half speed."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
