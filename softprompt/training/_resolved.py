"""The settings of prompts with the defaults of their methods."""

from collections.abc import Sequence
from dataclasses import replace

from ..errors import BadInput
from ..prompts.methods import Method
from ..regularizers import regularizers
from ..settings import PromptSettings


def resolved(prompt: PromptSettings) -> PromptSettings:
    """The prompt with its method's units and learning rate where it names none; they are part of the run's record.

    Raises:
        SoftPromptError: no such method or regulariser, or options, units or a guard that it cannot have; a race
            without restarts.
    """
    if prompt.restarts == 1 and prompt.restart_steps is not None:
        raise BadInput(
            f"--restart-steps={prompt.restart_steps} is how long restarts are compared, and there are none; "
            "give --restarts of 2 or more, or leave it out"
        )
    regularizers(prompt.regularizer)
    return Method.of(prompt).resolved(prompt)


def refuse_twins(prompts: Sequence[PromptSettings]) -> None:
    """Refuse two prompts of a run that are the same numbers: their scores would count as those of two.

    Args:
        prompts: of `resolved`.

    Raises:
        BadInput: with their places.
    """
    seen: list[tuple[object, ...]] = []
    for place, prompt in enumerate(prompts, 1):
        plain = replace(prompt, options={}, regularizer="")
        key = (plain, Method.of(prompt), regularizers(prompt.regularizer))
        if key in seen:
            raise BadInput(
                f"prompts {seen.index(key) + 1} and {place} of this run are the same ({prompt.method}, seed "
                f"{prompt.seeds.initialization}); give each its own --seed, or leave one out"
            )
        seen.append(key)
