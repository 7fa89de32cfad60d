"""MPT, first part: one prompt for several tasks, distilled from a prompt of each (Wang et al., 2023, arXiv:2303.02861).

The second part, the new task, begins at what the tasks share and trains in the common loop.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from ...baselines import Shared
from ...errors import BadInput, Interrupted
from ...prompts.methods import Method
from ...run_layout import CHECKPOINTS
from ...store import latest_checkpoint
from .._drive import fast_denormals
from .._folder import HeldFolder
from .._keywords import how_to_go_on
from .._processes import Processes
from .._progress import interruptible
from .._run_data import RunData
from .mpt_steps import SourceTraining

log = logging.getLogger("softprompt")


def shared_prompts(run_data: RunData, held: HeldFolder, processes: Processes) -> dict[int, Shared]:
    """Train the first part of each prompt of MPT, or go on with it.

    Args:
        run_data: the run, over the rows of the new task.
        held: the run's folder.
        processes: that train the run together.

    Returns:
        What the second part begins at, by the number of the prompt in the plan.

    Raises:
        BadInput: a source prompt that is deep or records no task, sources of one task only, a backbone that answers by
            a head, a loss that is not finite, or other rows than the part was started with.
        ModelMismatch: a source of another model.
        Interrupted: after Ctrl-C; a checkpoint is saved.
    """
    numbers = [number for number, prompt in enumerate(run_data.plan.prompts) if Method.of(prompt).weights == "mpt"]
    if numbers and run_data.backbone.answers == "linear-head":
        # An encoder answers by a word only where the task has some.
        is_in_words = run_data.task.answer == "label"
        raise BadInput(
            f"'mpt' shares a prompt between tasks, and {run_data.backbone.name!r} answers each by a linear head of its "
            f"own; give {'--answers=label-words' if is_in_words else 'a model that writes its answers'}"
        )
    if not numbers:
        return {}
    with fast_denormals(), interruptible() as is_stopped:
        return {
            number: _distilled(
                SourceTraining(run_data, run_data.plan.prompts[number]),
                held,
                held.path / CHECKPOINTS / f"mpt-{number}",
                # All processes of the run stop after the same step.
                lambda: processes.any(is_stopped()),
            )
            for number in numbers
        }


def _distilled(training: SourceTraining, held: HeldFolder, folder: Path, is_stopped: Callable[[], bool]) -> Shared:
    """Train one prompt on the tasks of all sources; returns what the new task begins at."""
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        # At once: it holds the fingerprint of the rows of the tasks, which have to be the same if it goes on.
        training.save(folder)
    else:
        training.restore(checkpoint, held.path)
    while training.step < training.steps:
        try:
            training.take_step()
        except BadInput:
            # A new run with such a rate leaves nothing to go on with.
            held.is_trained = False
            raise
        stopped = is_stopped()
        if stopped or training.step == training.steps or training.step % training.plan.settings.eval_every == 0:
            held.refuse_gone()
            training.save(folder)
            held.is_trained = True
        if stopped:
            raise Interrupted(
                f"stopped after step {training.step} of {training.steps} over the source tasks; go on with: "
                f"{how_to_go_on(training.plan.task, held.path)}"
            )
    names = ", ".join(task.name for task in training.tasks)
    log.info("mpt: %d steps over %s, last loss %.4f", training.steps, names, training.loss)
    return training.student.mean()
