"""The rows of a run as its frozen model reads them, and what cannot work with that model."""

import contextlib
import math
from collections.abc import Iterator, Sequence

from ..backbones import AbstractBackbone, refuse_collisions
from ..data import Examples, Ragged, Rows, Splits
from ..errors import BadInput, some_of
from ..inference.decoding import decoding, label_ids, refuse_idle_normalization
from ..inference.rows import examples_for, text_limit
from ..prompts.methods import Method
from ..regularizers import regularizers
from ..settings import DEFAULT_STEPS, PromptSettings, TrainSettings
from ..tasks import class_of, gold
from ._numbers import refuse_unwritable
from ._plan import Plan
from ._restarts import race_steps
from ._run_data import RunData
from .beginnings.examples import allowed_rows
from .beginnings.words import beginnings_of
from .objectives import RegularizerContext, has_dropout

# Training rows that are looked at for words to perturb.
CHECKED_ROWS = 256
# So many validation rows of one label are no chance in a file that is not sorted.
SORTED = 16


@contextlib.contextmanager
def recomputing(backbone: AbstractBackbone, settings: TrainSettings) -> Iterator[None]:
    """Within the block, the frozen model computes activations again where the settings want it; after it, as before."""
    before = backbone.recomputes
    if settings.gradient_checkpointing and not before:
        backbone.gradient_checkpointing(True)
    try:
        yield
    finally:
        if backbone.recomputes != before:
            backbone.gradient_checkpointing(before)


def prepare(plan: Plan, splits: Splits, backbone: AbstractBackbone) -> RunData:
    """The splits tokenised for the backbone, and what the prompts of the plan begin with.

    Raises:
        SoftPromptError: anything in the plan that cannot work.
    """
    beginnings = beginnings_of(plan, splits.train, backbone)
    lengths = sorted({beginning.length for candidates in beginnings for beginning in candidates})
    decoding(plan.task, backbone, plan.settings.decode)
    validation = choosing_rows(plan, splits.validation)
    train, validation, test = (
        examples_for(backbone, plan.task, rows, lengths[-1]) for rows in (splits.train, validation, splits.test)
    )
    refuse_unwritable(train, plan.task, backbone, plan.settings.max_new_tokens)
    _refuse_uneven_cuts(lengths, plan, backbone, (train, validation, test))
    _refuse_idle(plan, backbone)
    run_data = RunData(
        plan=plan, backbone=backbone, train=train, validation=validation, test=test, beginnings=beginnings
    )
    # What cannot work is found before anything is written or trained, as the first part of MPT is.
    _check_regularizers(run_data)
    _refuse_long_races(run_data)
    _refuse_weights_behind_words(plan)
    return run_data


def _refuse_uneven_cuts(
    lengths: Sequence[int], plan: Plan, backbone: AbstractBackbone, splits: Sequence[Examples]
) -> None:
    """Refuse prompts of several lengths where a row is cut by what the longest leaves: alone, others would read more.

    Raises:
        BadInput: the lengths, and what to do.
    """
    most, least = (text_limit(backbone, length, plan.task) for length in (lengths[0], lengths[-1]))
    cut = sum(examples.truncated if examples.windows is None else len(examples) for examples in splits)
    if most != least and cut:
        raise BadInput(
            f"prompts of {lengths[0]} and {lengths[-1]} vectors leave {most} and {least} tokens for a text, and {cut} "
            f"rows are cut: a prompt would not score as it does alone; give --max-length={least}, or train them apart"
        )


def _refuse_idle(plan: Plan, backbone: AbstractBackbone) -> None:
    """Refuse options that this model would ignore, or find out about after hundreds of steps.

    Raises:
        BadInput: the option, and what to do.
    """
    if plan.settings.backbone_dropout and not has_dropout(backbone):
        raise BadInput(f"{backbone.name!r} has no dropout, so --backbone-dropout changes nothing; leave it out")
    has_head = backbone.answers == "linear-head"
    if not has_head and any(prompt.head_lr != PromptSettings.head_lr for prompt in plan.prompts):
        raise BadInput(f"--head-lr is the rate of a linear head, and {backbone.name!r} has none here; leave it out")
    normalize = plan.settings.normalize
    if normalize != TrainSettings.normalize:
        refuse_idle_normalization(normalize, plan.task, plan.settings.decode, backbone.answers)
    if normalize == "first":
        refuse_collisions(label_ids(backbone, plan.task), backbone.tokenizer)


def _check_regularizers(run_data: RunData) -> None:
    """Refuse regularisers that would be quietly off, or measure nothing, here.

    Raises:
        BadInput: with what to do.
    """
    plan = run_data.plan
    if not any(prompt.regularizer for prompt in plan.prompts):
        return
    regularizer_context = RegularizerContext.of(run_data.backbone, run_data.task)
    rows = range(min(CHECKED_ROWS, len(run_data.train)))
    batch = run_data.train.batch(rows, 0, run_data.backbone.pad_id).to(run_data.backbone.device)
    for prompt in plan.prompts:
        regularizer_context.check(
            regularizers(prompt.regularizer),
            run_data.task,
            batch,
            dropout=plan.settings.backbone_dropout,
            m=Method.of(prompt).m,
        )


def _refuse_long_races(run_data: RunData) -> None:
    """Refuse races between restarts that are longer than the run."""
    racing = [prompt for prompt in run_data.plan.prompts if prompt.restarts > 1]
    steps = run_steps(run_data) if racing else 0
    for prompt in racing:
        race_steps(prompt, steps)


def _refuse_weights_behind_words(plan: Plan) -> None:
    """Refuse weights beside prompts that begin as words: the rows of such a run lack the opening that weights need.

    Raises:
        BadInput: names the method.
    """
    weights = [prompt.method for prompt in plan.prompts if Method.of(prompt).weights]
    begun = [prompt.init for prompt in plan.prompts if prompt.initial.is_words]
    if weights and begun:
        raise BadInput(
            f"{weights[0]!r} trains weights, and beside --init={begun[0]!r} it would read rows without their opening; "
            "train it in a run of its own"
        )


def choosing_rows(plan: Plan, validation: Rows) -> Rows:
    """The validation rows that choose the best prompt: all, or the first `eval_rows`.

    Raises:
        BadInput: the first ones have one label and the others have more, as in a sorted file.
    """
    count = plan.settings.eval_rows
    if count is None or count >= len(validation):
        return validation
    chosen = validation.select(range(count))
    if plan.task.answer == "label" and count >= SORTED:
        found = {str(gold(plan.task, row)) for row in chosen}
        if len(found) == 1 and {str(gold(plan.task, row)) for row in validation} != found:
            raise BadInput(
                f"the first {count} validation rows (--eval-rows) all have the label {chosen[0][plan.task.target]!r}, "
                "and others have another; raise --eval-rows or leave it out, or shuffle the file"
            )
    return chosen


def training_rows(run_data: RunData, prompt: PromptSettings) -> list[int]:
    """The training rows that a prompt may see: all, or its own few-shot draw."""
    return allowed_rows(run_data.task, run_data.train.gold, run_data.plan.settings, prompt)


def run_steps(run_data: RunData) -> int:
    """Optimiser steps of a run, which its prompts share: those over the rows of the prompt that has most."""
    rows = max(len(training_rows(run_data, prompt)) for prompt in run_data.plan.prompts)
    return step_count(run_data.plan.settings, rows)


def step_count(settings: TrainSettings, rows: int) -> int:
    """Optimiser steps of a run over `rows` training rows.

    steps, or ceil(epochs x rows / (batch_size x grad_accumulation)), or 1000.
    """
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is None:
        return DEFAULT_STEPS
    return max(1, math.ceil(settings.epochs * rows / (settings.batch_size * settings.grad_accumulation)))


def unseen_labels(run_data: RunData, validation: Rows) -> list[str]:
    """Return a warning if validation rows that choose the best prompt have none of a label that others have.

    Args:
        run_data: of the run.
        validation: all validation rows.
    """
    task = run_data.task
    if task.answer != "label" or len(run_data.validation) == len(validation):
        return []
    every = {class_of(task, value) for value in validation.columns[task.target]}
    lacking = sorted(every.difference(run_data.validation.gold))
    if not lacking:
        return []
    return [
        f"the first {len(run_data.validation)} validation rows (--eval-rows), which choose the best prompt, have no "
        f"row of {some_of([repr(task.labels[number]) for number in lacking])}; raise --eval-rows, or shuffle the file"
    ]


def long_answers(run_data: RunData, longest: int) -> list[str]:
    """Return a warning if right answers of validation or test rows are longer than any that a prompt may write.

    Args:
        run_data: of the run.
        longest: tokens of a written answer.
    """
    task, ends = run_data.task, run_data.backbone.ends
    if task.answer != "text":
        return []
    written = [split.targets for split in (run_data.validation, run_data.test) if isinstance(split.targets, Ragged)]
    rows = [targets.row(number).tolist() for targets in written for number in range(len(targets))]
    # The end of an answer need not be written.
    lengths = [sum(token not in ends for token in row) for row in rows]
    count = sum(length > longest for length in lengths)
    if not count:
        return []
    return [
        f"{count} of {len(rows)} validation and test rows have answers of more than {longest} tokens, the longest "
        f"{max(lengths)}; a prompt writes no longer ones, so give --max-new-tokens={max(lengths)}"
    ]
