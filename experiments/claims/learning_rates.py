"""Claim: EPT and EPT* depend less on the learning rate than prompt tuning does."""

import dataclasses
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from softprompt.study.statistics import bootstrap

from ..common.paired import Cell
from .arm import EPT, EPT_STAR, PROMPT_TUNING, RESIDUAL, Arm, Setting
from .check import Check, at_least
from .claim import Claim, Rates
from .design import PAPER_RATE, Design
from .results import Results, score

SETTINGS = (PROMPT_TUNING, RESIDUAL, EPT, EPT_STAR)
MEAN, SPREAD = 0.02, 0.05


def arms(design: Design, rates: Rates) -> Sequence[Arm]:
    """Each method at every rate."""
    return [setting.at(lr) for setting in SETTINGS for lr in design.rates]


def by_cell(results: Results, setting: Setting) -> dict[Cell, list[float]]:
    """The scores over the papers' rates, of each task and seed that has all of them."""
    columns = [results.values(setting.at(lr), score) for lr in results.design.rates if lr <= PAPER_RATE]
    common = [cell for cell in columns[0] if all(cell in column for column in columns)] if columns else []
    return {cell: [column[cell] for column in columns] for cell in common}


def learned_at_a_rate(results: Results, setting: Setting) -> set[Cell]:
    """The tasks and seeds that a setting learned at one of the papers' rates or more."""
    arms = [setting.at(lr) for lr in results.design.rates if lr <= PAPER_RATE]
    return {cell for arm in arms for cell in results.learned(arm)}


def checks(results: Results) -> Sequence[Check]:
    """Mean and range over the papers' rates, against prompt tuning's."""
    judged = []
    theirs = by_cell(results, PROMPT_TUNING)
    for setting in (EPT, EPT_STAR):
        ours = by_cell(results, setting)
        means = [fmean(ours[cell]) - fmean(theirs[cell]) for cell in ours if cell in theirs]
        judged.append(at_least(f"{setting.title}, mean over rates", "accuracy", means, MEAN))
        judged.append(range_check(results, setting))
    return judged


def range_check(results: Results, setting: Setting) -> Check:
    """Whether the range over rates is narrower than prompt tuning's, where both learn at all.

    A setting that learns at no rate has a range of nearly 0. A narrower range beside a mean that fell towards the floor
    is refuted, as a smaller deviation is in the stability study.
    """
    from softprompt.study.stability import has_fallen, lost

    ours, theirs = by_cell(results, setting), by_cell(results, PROMPT_TUNING)
    learned = learned_at_a_rate(results, setting) & learned_at_a_rate(results, PROMPT_TUNING)
    cells = [cell for cell in ours if cell in theirs and cell in learned]
    ranges = [_range(theirs[cell]) - _range(ours[cell]) for cell in cells]
    check = at_least(f"{setting.title}, narrower range over rates", "accuracy", ranges, SPREAD)
    if check.outcome != "met":
        return check
    pairs = [(fmean(ours[cell]), fmean(theirs[cell])) for cell in cells]
    _, high = bootstrap([a - b for a, b in pairs]) or (None, None)
    floor = fmean(results.floor(task) for task, _ in cells)
    share = lost(fmean(a for a, _ in pairs), fmean(b for _, b in pairs), floor)
    return dataclasses.replace(check, outcome="refuted") if has_fallen(share, high) else check


def _range(scores: Sequence[float]) -> float:
    return max(scores) - min(scores)


def figure(results: Results, plots: Any) -> Any:
    """Mean scores over learning rates."""
    curves = {}
    for setting in SETTINGS:
        points = [(lr, list(results.values(setting.at(lr), score).values())) for lr in results.design.rates]
        points = [(lr, scores) for lr, scores in points if scores]
        if points:
            ends = [bootstrap(scores) or (None, None) for _, scores in points]
            lows, highs = zip(*ends, strict=True)
            means = [sum(scores) / len(scores) for _, scores in points]
            curves[setting.title.replace("\\", "")] = ([lr for lr, _ in points], means, lows, highs)
    return curves and plots.curve_figure(curves, x="learning rate", y="test score", log_x=True)


def rows(results: Results) -> Sequence[dict[str, Any]]:
    """Methods down, rates across; how many runs each mean is of."""
    table = []
    for setting in SETTINGS:
        row: dict[str, Any] = {"setting": setting.title}
        counts = set()
        for lr in results.design.rates:
            scores = list(results.values(setting.at(lr), score).values())
            counts.add(len(scores))
            row[f"{lr:g}"] = f"{sum(scores) / len(scores):.3f}" if scores else ""
        row["runs a rate"] = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        table.append(row)
    return table


LEARNING_RATES = Claim(
    title="EPT and EPT\\* are more robust to the learning rate than prompt tuning",
    source="EPT, section 5.3, figure 8: 0.003 to 0.3 on five SuperGLUE tasks, 30,000 steps",
    rule="Scores over the rates up to 0.3, for each task and seed. EPT is more robust if its mean over rates is 0.02 "
    "or more above prompt tuning's, and if its range from the worst to the best rate is narrower by 0.05 or more, "
    "with both intervals above 0. Ranges are taken over the tasks and seeds that both methods learned at one or "
    "more of these rates. A narrower range does not count where the mean has fallen towards the floor (by a tenth "
    "of the way with an interval below 0, or by half), as in the stability study, because a prompt that never "
    "learns does not depend on the rate. Rate 1.0 is shown and not judged.",
    arms=arms,
    checks=checks,
    figure=figure,
    rows=rows,
)
