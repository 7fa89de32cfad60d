"""What a run will cost, from a few steps of it: nothing is kept."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ..backbones import AbstractBackbone
from ..data import load_rows, split_rows
from ..inference.asked import put
from ..inference.scoring_rule import with_loss
from ..settings import PromptSettings, TrainSettings
from ..tasks import Task, styled
from ._auto_init import with_beginnings
from ._built import build_prompts
from ._loop import Loop
from ._plan import Plan
from ._prepare import prepare, recomputing, step_count
from ._records import Record
from ._sources import with_sources
from ._start import start_members
from ._words import with_opening

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
    chosen = put(task, backbone.kind, style)
    if settings.max_length is not None:
        chosen = replace(chosen, max_length=settings.max_length)
    read = load_rows(task if style is None else styled(task, style), data_root, max_bad_rows)
    splits = split_rows(chosen, read, test_rows=settings.test_rows)
    settings = with_loss(settings, chosen, backbone)
    plan = Plan(
        task=chosen,
        model=backbone.spec,
        prompts=with_beginnings(prompts, chosen, backbone),
        settings=settings,
    )
    plan = with_opening(plan, splits.train, backbone)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_files:
        open_files.enter_context(recomputing(backbone, settings))
        run_data = prepare(plan, splits, backbone)
        plan = with_sources(plan, run_data)
        members = start_members(plan, run_data, build_prompts(plan, run_data), Path(folder))
        for member in members:
            open_files.callback(member.close)
        timing = Record(Path(folder) / "timing.jsonl")
        open_files.callback(timing.close)
        open_files.callback(backbone.dropout, False)
        loop = Loop(run_data, members, settings, members[0].optimizer.steps, timing)
        step = loop.seconds_of_step(STEPS, ENOUGH)
        evaluation = loop.seconds_of_row(ROWS if step < LONG_STEP else FEW_ROWS)
    rows = settings.batch_size * settings.grad_accumulation * len(members)
    length = run_data.train.lengths.float().mean().item() + max(member.trainable.length for member in members)
    evaluations = -(-loop.steps // settings.eval_every)
    judged = evaluations * len(run_data.validation) + len(run_data.test)
    return Measured(
        steps=loop.steps,
        rows=len(run_data.train),
        tokens=round(loop.steps * rows * length),
        seconds=loop.steps * step + judged * evaluation,
    )
