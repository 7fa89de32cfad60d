"""Claim: norms explode in reparameterised prompts, and hardly grow in prompt tuning."""

import math
from collections.abc import Sequence
from typing import Any

from .arm import EPT, EPT_STAR, P_TUNING, PROMPT_TUNING, RESIDUAL
from .check import Check, at_least
from .claim import Claim, both_rates, fixed
from .results import Record, Results, peak

SETTINGS = (PROMPT_TUNING, P_TUNING, RESIDUAL, EPT, EPT_STAR)
# In powers of ten.
MARGIN = 1.0


def excess(record: Record, reference: float) -> float | None:
    """log10 of the peak norm over the larger of the run's own first norm and a reference."""
    top, first = peak(record), record["norms"][0] if record["norms"] else None
    # A norm that was never positive, or of a run dropped at once, says nothing.
    return math.log10(top / max(first, reference)) if top and first and reference else None


def growth(record: Record) -> float | None:
    """log10 of the peak norm over the run's own first norm."""
    first = record["norms"][0] if record["norms"] else None
    return excess(record, first) if first else None


def checks(results: Results) -> Sequence[Check]:
    """One check a network and learning rate; of prompt tuning at each, that it does not grow as much."""
    judged = []
    theirs = results.arms(PROMPT_TUNING)
    for setting in SETTINGS[1:]:
        for rate, arm in results.arms(setting).items():
            peaks = results.values(theirs[rate], peak)
            known = [excess(record, peaks[cell]) for cell, record in results.records(arm).items() if cell in peaks]
            values = [value for value in known if value is not None]
            judged.append(at_least(f"{setting.title} at {rate}", "powers of ten", values, MARGIN))
    for rate, arm in theirs.items():
        values = [MARGIN - value for value in results.values(arm, growth).values()]
        judged.append(at_least(f"not so in prompt tuning at {rate}", f"{MARGIN:g} - powers of ten", values, 0.0))
    return judged


def figure(results: Results, plots: Any) -> Any:
    """Norms over steps at the papers' rate, on the first task."""
    from softprompt.prompts.units import BAND

    task = results.design.tasks[0]
    curves = {}
    for setting in SETTINGS:
        lines = [
            (results.design.norm_steps, [math.nan if n is None else n for n in record["norms"]])
            for seed in results.design.seed_numbers
            if (record := results.record(task, setting.at_paper, seed))
        ]
        if lines:
            curves[setting.title.replace("\\", "")] = lines
    return plots.norm_figure(curves, band=BAND, title=f"{task}, learning rate 0.3") if curves else None


NORMS = Claim(
    title="Norms explode where the prompt is reparameterised, and not in prompt tuning",
    source="EPT, section 3.2, figures 2 and 11: P-Tuning and residual at lr 0.3; EPT by construction (3.3)",
    rule="Take the peak norm of a run, over the larger of two norms: its own first norm, and the peak norm of prompt "
    "tuning with the same task, seed and kind of rate; in powers of ten. The norm explodes if the mean is 1 or "
    "more and the interval is above 0. Prompt tuning has to show the opposite: its peak over its own first norm "
    "is less than 1 power of ten, with the whole interval.",
    settings=fixed(SETTINGS),
    arms=both_rates(SETTINGS),
    checks=checks,
    figure=figure,
)
