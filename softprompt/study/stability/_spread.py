"""How one setting's scores are spread over its seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...metrics import is_stuck
from ..statistics import bootstrap, deviation, mean_of_known
from ._arm import Arm


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The spread of one setting; what is not known is None.

    Args:
        setting: its name.
        n: seeds.
        dropped: how many of them have no score; they are in no other number but the shares.
        mean: of the test scores.
        low: end of the mean's 95 % bootstrap interval.
        high: the other end.
        std: standard deviation (n - 1).
        std_low: end of its 95 % bootstrap interval.
        std_high: the other end.
        min: the worst seed.
        worst_quarter: mean of the lowest quarter of the scores, which does not fall with the number of seeds as the
            minimum does.
        median: of the scores.
        q25: first quartile.
        q75: third quartile; the interquartile range is q75 - q25.
        failed: share of all n that is at chance or below, runs without a score among them.
        stuck: share of all n that has not got half of the way from chance to the best run of the comparison.
        train_score: mean score on the prompts' own training rows.
        train_loss: mean over seeds of the training loss at the end.
        prompt_steps: mean over seeds of the optimiser steps taken, which is what a seed costs.
    """

    setting: str
    n: int
    dropped: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    std: float | None = None
    std_low: float | None = None
    std_high: float | None = None
    min: float | None = None
    worst_quarter: float | None = None
    median: float | None = None
    q25: float | None = None
    q75: float | None = None
    failed: float | None = None
    stuck: float | None = None
    train_score: float | None = None
    train_loss: float | None = None
    prompt_steps: float | None = None


def spread(arm: Arm, ceiling: float | None = None) -> Spread:
    """The spread of an arm's scores.

    Args:
        arm: of one setting.
        ceiling: the best score that is known of the task; None takes the arm's own best.
    """
    counts: dict[str, Any] = {"setting": arm.name, "n": len(arm.seeds), "dropped": len(arm.seeds) - len(arm.scored)}
    ends: dict[str, Any] = {
        "train_score": mean_of_known(arm.train_scores),
        "train_loss": mean_of_known(arm.train_losses),
    }
    ends["prompt_steps"] = mean_of_known(arm.prompt_steps)
    return Spread(**counts, **_numbers(arm.scored), **_shares(arm, ceiling), **ends)


def _numbers(scores: Sequence[float]) -> dict[str, Any]:
    import numpy as np

    if not scores:
        return {}
    values = np.sort(np.asarray(scores, dtype=float))
    q25, median, q75 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    numbers = {"mean": values.mean(), "min": values[0], "worst_quarter": values[: math.ceil(len(values) / 4)].mean()}
    if len(values) > 1:
        numbers["std"] = deviation(values[None])[0]
        for prefix, interval in (("", bootstrap(scores)), ("std_", bootstrap(scores, deviation))):
            assert interval is not None, "two values have an interval"
            numbers |= {f"{prefix}low": interval[0], f"{prefix}high": interval[1]}
    return {name: float(value) for name, value in numbers.items()} | {"q25": q25, "median": median, "q75": q75}


def _shares(arm: Arm, ceiling: float | None) -> dict[str, Any]:
    chance, best = arm.chance, max(arm.scored, default=None) if ceiling is None else ceiling
    if chance is None or not arm.seeds:
        return {}
    failed = [score is None or score <= chance for score in arm.scores]
    stuck = [score is None or best is None or is_stuck(score, chance, best) for score in arm.scores]
    return {"failed": sum(failed) / len(failed), "stuck": sum(stuck) / len(stuck)}
