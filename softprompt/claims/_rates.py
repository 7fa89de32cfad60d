"""Claim: EPT and EPT* do not depend on the learning rate as prompt tuning does."""

from collections.abc import Sequence
from typing import Any

from ..study.statistics import bootstrap
from ._arm import EPT, EPT_STAR, PROMPT_TUNING, RESIDUAL, Arm, Setting
from ._check import Check, at_least
from ._claim import Claim, Rates
from ._design import PAPER_RATE, Design
from ._results import Cell, Results, score

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


def checks(results: Results) -> Sequence[Check]:
    """Mean and range over the papers' rates, against prompt tuning's."""
    found = []
    theirs = by_cell(results, PROMPT_TUNING)
    for setting in (EPT, EPT_STAR):
        ours = by_cell(results, setting)
        both = [(ours[cell], theirs[cell]) for cell in ours if cell in theirs]
        means = [sum(a) / len(a) - sum(b) / len(b) for a, b in both]
        ranges = [(max(b) - min(b)) - (max(a) - min(a)) for a, b in both]
        found.append(at_least(f"{setting.title}, mean over rates", "accuracy", means, MEAN))
        found.append(at_least(f"{setting.title}, narrower range over rates", "accuracy", ranges, SPREAD))
    return found


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
    shown = []
    for setting in SETTINGS:
        row: dict[str, Any] = {"setting": setting.title}
        counts = set()
        for lr in results.design.rates:
            scores = list(results.values(setting.at(lr), score).values())
            counts.add(len(scores))
            row[f"{lr:g}"] = f"{sum(scores) / len(scores):.3f}" if scores else ""
        row["runs a rate"] = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        shown.append(row)
    return shown


LEARNING_RATES = Claim(
    title="EPT and EPT\\* are robust to the learning rate, prompt tuning is not",
    source="EPT, section 5.3, figure 8: 0.003 to 0.3 on five SuperGLUE tasks, 30,000 steps",
    rule="Over the rates up to 0.3, of each task and seed. Robust if the mean over rates is 0.02 or more above prompt "
    "tuning's, and if the range from the worst to the best rate is narrower than its by 0.05 or more, intervals "
    "above 0. Rate 1.0 is shown and not judged.",
    arms=arms,
    checks=checks,
    figure=figure,
    rows=rows,
)
