"""Claim: the larger the norm, the better. The test fixes the norm and trains the direction."""

import itertools
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from softprompt.study.statistics import bootstrap

from .arm import Arm, Setting
from .check import Check, at_least
from .claim import Claim, Rates
from .design import Design
from .results import Results, score

# The method's default; a direction has no raw units.
RATE = 0.1
MARGIN = 0.02


def at_radius(radius: float) -> Arm:
    """One direction, repeated ten times, at a norm."""
    return Setting("polar", (("radius", radius),)).at(RATE)


def arms(design: Design, rates: Rates) -> Sequence[Arm]:
    """One arm a norm."""
    return [at_radius(radius) for radius in design.radii]


def decades(design: Design) -> list[tuple[float, float]]:
    """Pairs of norms, each ten times the one before or the next that there is."""
    chosen = [design.radii[0]]
    for radius in design.radii[1:]:
        if radius >= 9.9 * chosen[-1]:
            chosen.append(radius)
    return list(itertools.pairwise(chosen))


def checks(results: Results) -> Sequence[Check]:
    """One check a decade."""
    return [
        at_least(
            f"from {low:g} to {high:g} token norms",
            "accuracy",
            results.paired(at_radius(high), at_radius(low)),
            MARGIN,
        )
        for low, high in decades(results.design)
    ]


def figure(results: Results, plots: Any) -> Any:
    """Mean scores over norms, all and by task."""
    radii = [r for r in results.design.radii if results.values(at_radius(r), score)]
    if not radii:
        return None
    columns = [results.values(at_radius(r), score) for r in radii]
    ends = [bootstrap(list(column.values())) or (None, None) for column in columns]
    lows, highs = zip(*ends, strict=True)
    curves: dict[str, Any] = {"all tasks": (radii, [fmean(list(column.values())) for column in columns], lows, highs)}
    for task in results.design.tasks:
        scores = [[value for (name, _), value in column.items() if name == task] for column in columns]
        if all(scores):
            curves[task] = (radii, [fmean(column_scores) for column_scores in scores], None, None)
    return plots.curve_figure(curves, x="norm of the vector, in token norms", y="test score", log_x=True)


FIXED_NORM = Claim(
    title="The larger the norm of the prompt, the better",
    source="EPT, sections 3.2 and 3.3, figure 9 (right): higher norms go with higher accuracy",
    rule="One direction is trained and repeated ten times, at a given norm (polar, lr 0.1). Test score minus that at a "
    "tenth of the norm, same task and seed. Better if the mean is 0.02 or more and the interval is above 0.",
    arms=arms,
    checks=checks,
    figure=figure,
)
