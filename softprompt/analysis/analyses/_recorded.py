"""Trained prompts by what was recorded of them: settings, scores and curves, and no vectors."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...settings import PromptSettings, TrainSettings
from ...tasks import Task


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What was recorded of a trained prompt.

    Args:
        label: name of the prompt in tables and figures.
        task: that it was trained on.
        settings: every setting that could have been varied, by the name under which it is compared.
        score: the test score; None without one.
        steps: optimiser steps whose norms are known.
        norms: the mean norm at these steps in the model's own numbers.
        token_norms: the same in token norms; None where they are not known.
        evaluated: optimiser steps of the evaluations.
        scores: the validation score of each.
    """

    label: str
    task: Task
    settings: Mapping[str, Any]
    score: float | None = None
    steps: Sequence[int] = ()
    norms: Sequence[float] = ()
    token_norms: Sequence[float] | None = None
    evaluated: Sequence[int] = ()
    scores: Sequence[float] = ()


def flat_settings(settings: TrainSettings, prompt: PromptSettings, **of_run: Any) -> dict[str, Any]:
    """The settings of a prompt under one name each, without its seeds; an option of its method is "options.NAME".

    Args:
        settings: how it was trained.
        prompt: of its method.
        of_run: further ones, which take the place of those of the same name.
    """
    options = {f"options.{key}": value for key, value in prompt.options.items()}
    fields = {**dataclasses.asdict(settings), **dataclasses.asdict(prompt), **options, **of_run}
    return {key: value for key, value in fields.items() if key not in ("seeds", "options")}
