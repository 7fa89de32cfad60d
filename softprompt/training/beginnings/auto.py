"""What `--init auto` stands for: the instruction where a decoder reads one, random vectors elsewhere."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from ...backbones import AbstractBackbone
from ...initial import Initial
from ...settings import PromptSettings
from ...tasks import Task
from .._resolved import resolved

# The instruction with four rows after it scores higher than the instruction alone, and makes each input longer by
# these rows. Where the rows are short, a search tries it and `train` recommends it.
EXAMPLES, MOST_SHOWN_TOKENS = "examples:4", 256
SHOWN = Initial(EXAMPLES).example_count()


def with_beginnings(
    prompts: Sequence[PromptSettings], task: Task, backbone: AbstractBackbone
) -> tuple[PromptSettings, ...]:
    """The prompts with the `init` that "auto" stands for, and with the learning rate that belongs to it.

    A prompt begins as the instruction only if every prompt of the run can begin so: methods that are compared begin
    alike. Where this rule changes, `study.RunSpec.numbers` has to tell earlier runs from later ones.

    Args:
        prompts: as they were given, with no learning rate filled in, since it depends on the beginning.
        task: as the model reads it.
        backbone: the frozen model.
    """
    alike = all(prompt.may_begin_as_words or prompt.initial.is_words for prompt in prompts)
    init = auto_init(task, backbone) if alike else "uniform"
    return tuple(
        resolved(dataclasses.replace(prompt, init=init) if prompt.init == "auto" else prompt) for prompt in prompts
    )


def auto_init(task: Task, backbone: AbstractBackbone) -> Literal["instruction", "uniform"]:
    """The instruction of a label task that a decoder answers in words, where there is one; else random vectors."""
    reads_words = backbone.kind == "decoder" and backbone.answers != "linear-head" and task.answer == "label"
    return "instruction" if reads_words and task.instruction else "uniform"


def may_show(task: Task, backbone: AbstractBackbone, row_tokens: float) -> bool:
    """Whether rows shown after the instruction are worth a try: "auto" is the instruction, and they are short and fit.

    Args:
        task: as the model reads it.
        backbone: the frozen model.
        row_tokens: of a training row, on average.
    """
    # As many positions again for the text and for rows that are longer than others.
    fits = backbone.max_positions is None or 2 * SHOWN * row_tokens <= backbone.max_positions
    return fits and auto_init(task, backbone) == "instruction" and SHOWN * row_tokens <= MOST_SHOWN_TOKENS
