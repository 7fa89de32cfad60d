"""Successive halving: at fixed rungs of its run a candidate stops unless it is in the better half so far."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..settings import TrainSettings
    from ..training import Evaluation

# Shares of the run, each taken at the first evaluation that is not before it.
RUNGS = (0.2, 0.4)
REASON = "not in the better half"


def rungs_of(settings: "TrainSettings", steps: int) -> tuple[int, ...]:
    """The steps at which candidates are compared; the last evaluation is none of them."""
    every = settings.eval_every
    steps_at = [every * math.ceil(share * steps / every) for share in RUNGS]
    return tuple(sorted({step for step in steps_at if step < steps}))


@dataclass(frozen=True, kw_only=True)
class Halving:
    """A callback that stops the worse half of all candidates seen at a rung (asynchronous successive halving).

    A candidate is compared with those of earlier waves too (Li et al., 2020, arXiv:1810.05934), so that a candidate
    that shares its passes with nobody is dropped as well. Equal scores stay.

    Args:
        rungs: steps at which it looks.
        earlier: by rung the best scores until then of candidates of earlier waves.
        spared: prompts that train to their end whatever they score.
    """

    rungs: Sequence[int]
    earlier: Mapping[int, Sequence[float]]
    spared: frozenset[str] = frozenset()

    def on_evaluation(self, evaluation: "Evaluation") -> None:
        """Stop the prompts below the middle."""
        if evaluation.step not in self.rungs:
            return
        scores = {prompt: evaluation.best[prompt] for prompt in evaluation.scores}
        # Spared prompts that have ended are still among those that others are compared with.
        everyone = sorted([*self.earlier.get(evaluation.step, ()), *scores.values()], reverse=True)
        middle = everyone[math.ceil(len(everyone) / 2) - 1] if everyone else -math.inf
        for prompt, score in scores.items():
            if score < middle and prompt not in self.spared:
                evaluation.stop(prompt, REASON)
