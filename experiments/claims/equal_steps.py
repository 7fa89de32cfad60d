"""Claim: EPT and EPT* are better than prompt tuning after as many steps."""

from collections.abc import Sequence
from typing import Any

from . import confirmed
from .arm import EPT, EPT_STAR, PROMPT_TUNING
from .check import Check, at_least
from .claim import Claim, both_rates, fixed
from .results import Results, score

SETTINGS = (PROMPT_TUNING, EPT, EPT_STAR)
MARGIN = 0.02


def checks(results: Results) -> Sequence[Check]:
    """Each against prompt tuning: both at their own rates, both at the papers', and in the confirmation study."""
    here = [
        at_least(
            f"{setting.title}, both at {'their own rates' if rate == 'own rate' else rate}",
            "accuracy",
            results.paired(arm, results.arms(PROMPT_TUNING)[rate]),
            MARGIN,
        )
        for setting in (EPT, EPT_STAR)
        for rate, arm in results.arms(setting).items()
    ]
    return [*here, *confirmed.checks(results, MARGIN)]


def figure(results: Results, plots: Any) -> Any:
    """Every run as a dot."""
    arms = {}
    for setting in SETTINGS:
        for rate, arm in results.arms(setting).items():
            scores = list(results.values(arm, score).values())
            if scores:
                arms[f"{setting.title}\n{rate}".replace("\\", "")] = scores
    title = f"{results.design.steps} steps; one dot a task and seed"
    return plots.strip_figure(arms, title=title) if arms else None


EQUAL_STEPS = Claim(
    title="EPT and EPT\\* are better than prompt tuning at equal steps",
    source="EPT, table 1: averages of T5-small to T5-large after 30,000 steps",
    rule="Test score minus that of prompt tuning with the same task and seed. Better if the mean is 0.02 or more and "
    "the interval is above 0. The same is asked of every part of the confirmation study ([which method]"
    "(../../docs/results/which-method.md)) in which both ran, each at its own rate for the model: other backbones, "
    "tasks, lengths, few rows, the frozen model's dropout.",
    settings=fixed(SETTINGS),
    arms=both_rates(SETTINGS),
    checks=checks,
    figure=figure,
    other_rows=confirmed.rows,
)
