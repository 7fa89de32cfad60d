"""Beginnings from words: a prompt starts as all that stands before the text of a row in a hand-written input.

`--init instruction` begins as beginning of sequence, opening of a chat and instruction; `--init examples:K` as these
and K labelled training rows. Rows are then read without that opening, so step 0 is the hand-written input itself. All
prompts of such a run stand behind the same words: one with another `--init` holds the opening and then its own vectors.
"""

import contextlib
import dataclasses

from ...backbones import AbstractBackbone
from ...data import Rows
from ...errors import BadInput
from ...inference.in_context import encoded, opening_of, text_before
from ...inference.rows import examples_for, text_limit
from ...prompts.methods import SIZES, Method
from ...prompts.seeds import stream_seed
from ...settings import PromptSettings
from ...tasks import gold
from .._plan import Plan
from .._restarts import beginnings, with_fewer_examples
from .beginning import Beginning
from .cpt import label_places, refuse_no_decoder
from .examples import allowed_rows, context, drawn


def refuse_words(settings: PromptSettings) -> None:
    """Refuse a prompt that cannot begin as words, as far as its settings tell.

    Raises:
        BadInput: a method without words; or a length, which follows from the words.
    """
    Method.of(settings).refuse_words(settings.init)
    for name in SIZES:
        if name in settings.options:
            option = "--prompt-length" if name == "prompt_length" else f"method option {name!r}"
            raise BadInput(f"--init={settings.init} makes a prompt as long as its words; leave {option} out")


def with_opening(plan: Plan, rows: Rows, backbone: AbstractBackbone) -> Plan:
    """The plan with the ids that its prompts hold in the place of the rows' opening, where one begins as words.

    Args:
        plan: a new plan.
        rows: the training rows.
        backbone: the frozen model.

    Raises:
        BadInput: the task has no instruction to begin with, the instruction is too long, or a linear head answers.
    """
    inits = [prompt.init for prompt in plan.prompts if prompt.initial.is_words]
    if not inits:
        return plan
    if backbone.answers == "linear-head":
        raise BadInput(
            f"--init={inits[0]} begins as a hand-written input, and a linear head answers none; leave it out"
        )
    if "instruction" in inits and not plan.task.instruction:
        raise BadInput(f"task {plan.task.name!r} has no instruction for --init=instruction; give --instruction TEXT")
    (alone,) = encoded(backbone, [text_before(backbone, plan.task)])
    limit = text_limit(backbone, 0, plan.task)
    if len(alone) >= limit:
        raise BadInput(
            f"the instruction has {len(alone)} tokens, instruction and text together may have {limit}; shorten it, or "
            "raise --max-length where the model has the positions"
        )
    opening = opening_of(backbone, plan.task, examples_for(backbone, plan.task, rows, 0))
    return dataclasses.replace(plan, task=dataclasses.replace(plan.task, opening_ids=opening))


def beginnings_of(plan: Plan, rows: Rows | None, backbone: AbstractBackbone) -> list[list[Beginning]]:
    """What the candidates of each prompt begin with.

    Where a restart of an instruction would show more examples than there are rows or positions, it shows fewer, and
    begins as random vectors where none fits.

    Args:
        plan: of `with_opening`.
        rows: the training rows, of which some are shown; None where no prompt shows any.
        backbone: the frozen model.

    Raises:
        BadInput: fewer rows than examples that a user wants, or no positions for them.
    """
    prompts = [Method.of(prompt).resolved(prompt) for prompt in plan.prompts]
    candidates = [list(enumerate(beginnings(prompt))) for prompt in prompts]
    shows_examples = any(settings.initial.kind == "examples" for members in candidates for _, settings in members)
    right = [gold(plan.task, row) for row in rows] if rows is not None and shows_examples else []

    def begins(settings: PromptSettings, number: int) -> Beginning:
        if rows is None or settings.initial.kind != "examples":
            return Beginning.of(settings, plan.task.opening_ids)
        refuse_no_decoder(settings, backbone)
        allowed = allowed_rows(plan.task, right, plan.settings, settings)
        # Each candidate for a prompt draws examples of its own.
        seed, count = stream_seed(settings.seeds.draw, f"examples/{number}"), settings.initial.example_count()
        seen, answers = rows.select(allowed), [right[row] for row in allowed]
        ids = context(backbone, plan.task, seen, answers, count=count, seed=seed)
        if settings.context_loss is None:
            return Beginning.of(settings, ids)
        shown_rows = list(seen.select(drawn(answers, count, seed)))
        return Beginning.of(settings, ids, label_places(backbone, plan.task, shown_rows, ids))

    def beginning_of(prompt: PromptSettings, settings: PromptSettings, number: int) -> Beginning:
        if prompt.init == settings.init:
            return begins(settings, number)
        # What the user did not give is not refused.
        for fewer in with_fewer_examples(settings):
            with contextlib.suppress(BadInput):
                return begins(fewer, number)
        return Beginning.of(dataclasses.replace(settings, init="uniform"), plan.task.opening_ids)

    return [
        [beginning_of(prompt, settings, number) for number, settings in members]
        for prompt, members in zip(prompts, candidates, strict=True)
    ]
