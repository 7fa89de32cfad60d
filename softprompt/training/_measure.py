"""What a run will cost, from a few steps of it: nothing is kept."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backbones import AbstractBackbone
from ..data import load_rows, split_rows
from ..inference.asked import worded_for
from ..settings import PromptSettings, TrainSettings
from ..tasks import Task, styled
from ._built import build_prompts
from ._decided import decided
from ._loop import Loop
from ._plan import Plan
from ._prepare import prepare, recomputing, step_count
from ._restarts import race_steps
from ._start import open_loop
from .beginnings.vectors import at_source_length
from .transfer.spot import with_sources

# Steps that are timed, after one that is not, and the seconds after which fewer are enough.
STEPS, ENOUGH = 3, 10.0
# Validation rows that are timed: fewer of a model that takes long for a step.
ROWS, FEW_ROWS, LONG_STEP = 64, 8, 2.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The cost of a run.

    Args:
        steps: optimiser steps of the run.
        rows: training rows of the task.
        tokens: positions of text and prompt that pass through the model in all steps, for all prompts together.
        seconds: of all steps and evaluations, at the speed of the measured ones.
    """

    steps: int
    rows: int
    tokens: int
    seconds: float

    def steps_of(self, settings: TrainSettings, classes: int) -> int:
        """Optimiser steps of a run with other settings on as many rows.

        Args:
            settings: of that run.
            classes: labels of its task, for a number of rows of each.
        """
        drawn = settings.shots or (settings.shots_per_class or 0) * classes
        return step_count(settings, drawn or self.rows)


def measure(
    task: Task,
    backbone: AbstractBackbone,
    prompts: Sequence[PromptSettings],
    settings: TrainSettings,
    *,
    data_root: "Path | str | None" = None,
    style: str | None = None,
    max_bad_rows: int = 0,
) -> Measured:
    """Time at most three steps and an evaluation of a run, which are thrown away.

    Args:
        task: as it was declared.
        backbone: the frozen model.
        prompts: they share the passes.
        settings: of the run.
        data_root: as in `train`.
        style: as in `train`.
        max_bad_rows: as in `train`.

    Raises:
        SoftPromptError: as `train` does, where the request cannot work.
    """
    chosen = worded_for(task, backbone.kind, style)
    read = load_rows(styled(task, style), data_root, max_bad_rows)
    splits = split_rows(chosen, read, test_rows=settings.test_rows)
    plan = Plan(task=chosen, model=backbone.spec, prompts=tuple(map(at_source_length, prompts)), settings=settings)
    plan = decided(plan, splits.train, backbone)
    with tempfile.TemporaryDirectory() as folder, recomputing(backbone, settings):
        run_data = with_sources(prepare(plan, splits, backbone))
        with open_loop(run_data, build_prompts(run_data), Path(folder)) as loop:
            step = seconds_of_step(loop.take_step, STEPS, ENOUGH)
            evaluation = seconds_of_row(loop, ROWS if step < LONG_STEP else FEW_ROWS)
            members = loop.members
    steps = sum(_steps_of(prompt, loop.steps) for prompt in run_data.plan.prompts)
    # Every candidate of a race trains in the measured steps, and only one after it.
    share = steps / (loop.steps * len(members))
    rows = settings.batch_size * settings.grad_accumulation
    length = run_data.train.lengths.float().mean().item() + max(member.trainable.length for member in members)
    evaluations = -(-loop.steps // settings.eval_every)
    judged = evaluations * len(run_data.validation) + len(run_data.test)
    return Measured(
        steps=loop.steps,
        rows=len(run_data.train),
        tokens=round(steps * rows * length),
        seconds=loop.steps * step * share + judged * evaluation,
    )


def _steps_of(prompt: PromptSettings, steps: int) -> int:
    """Optimiser steps of a prompt in a run of so many, those of all candidates of its race among them."""
    race = race_steps(prompt, steps) if prompt.restarts > 1 else 0
    return race * prompt.restarts + steps - race


def seconds_of_step(take_step: Callable[[], object], steps: int, enough: float) -> float:
    """Seconds of an optimiser step, measured over some after one that warms up, or over fewer once it is enough.

    Args:
        take_step: takes the next.
        steps: that are timed.
        enough: seconds after which no further step begins; one step of this length is the measure itself.
    """
    seconds: list[float] = []
    while len(seconds) <= steps and sum(seconds) < enough:
        start = time.perf_counter()
        take_step()
        seconds.append(time.perf_counter() - start)
    counted = seconds[1:] or seconds
    return sum(counted) / len(counted)


def seconds_of_row(loop: Loop, rows: int) -> float:
    """Seconds in which all prompts answer one validation row, measured over some rows."""
    # Candidates are not scored: one of a race stands for the prompt that it becomes.
    judged = {member.race or member: member for member in loop.active}.values()
    prompts = [member.trainable.fold(member.provenance) for member in judged]
    validation = loop.run_data.validation
    few = validation.select(range(min(rows, len(validation))))
    start = time.perf_counter()
    loop.scorer.scores(prompts, few)
    return (time.perf_counter() - start) / len(few)
