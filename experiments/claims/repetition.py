"""Claim: one trained vector, repeated, does what the whole prompt did."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from softprompt.metrics import is_stuck

from .arm import P_TUNING, PROMPT_TUNING, RESIDUAL, Arm
from .check import Check, at_least
from .claim import Claim, both_rates, fixed
from .results import Record, Results

SETTINGS = (PROMPT_TUNING, P_TUNING, RESIDUAL)
# Share of the way above the floor that has to be kept.
KEPT = 0.9


def shares(results: Results, arm: Arm | None, length: int) -> list[float]:
    """Shares of the way from the floor to the whole prompt that one repeated vector reaches; of runs that learned."""
    return [(copies[str(length)] - floor) / (copies["whole"] - floor) for floor, copies in learned(results, arm)]


def learned(results: Results, arm: Arm | None) -> list[tuple[float, Record]]:
    """The task's floor and the scores of copies, of each prompt that learned its task; a dropped run has no prompt."""
    best = results.best()
    probed = [(task, record.get("copies")) for (task, _), record in results.records(arm).items()]
    prompts = [(results.floor(task), best[task], copies) for task, copies in probed if copies]
    return [(floor, copies) for floor, top, copies in prompts if not is_stuck(copies["whole"], floor, top)]


def checks(results: Results) -> Sequence[Check]:
    """One check for each method at the whole prompt's length. For prompt tuning the claim is the opposite."""
    length = max(results.design.repeats)
    judged = []
    for setting in (P_TUNING, RESIDUAL, PROMPT_TUNING):
        for rate, arm in results.arms(setting).items():
            values = [share - KEPT for share in shares(results, arm, length)]
            if setting == PROMPT_TUNING:
                title, values = f"not so in prompt tuning at {rate}", [-value for value in values]
            else:
                title = f"{setting.title} at {rate}"
            judged.append(at_least(title, f"share - {KEPT:g}, x {length}", values, 0.0))
    return judged


def figure(results: Results, plots: Any) -> Any:
    """Share of the way above the floor that is kept, over the number of repetitions."""
    curves = {}
    for setting in SETTINGS:
        for rate, arm in results.arms(setting).items():
            lengths = [n for n in results.design.repeats if shares(results, arm, n)]
            if lengths:
                means = [fmean(shares(results, arm, n)) for n in lengths]
                curves[f"{setting.title}, {rate}"] = (lengths, means, None, None)
    return curves and plots.curve_figure(
        curves,
        x="copies of one trained vector",
        y="share of the way above the floor that is kept",
        log_x=False,
        title="runs that learned their task",
    )


def rows(results: Results) -> Sequence[dict[str, Any]]:
    """Mean shares of each arm by length."""
    table = []
    for setting in SETTINGS:
        for rate, arm in results.arms(setting).items():
            row: dict[str, Any] = {"setting": setting.title, "rate": rate}
            row["runs that learned"] = len(learned(results, arm))
            for n in results.design.repeats:
                kept = shares(results, arm, n)
                row[f"x {n}"] = f"{fmean(kept):.2f}" if kept else ""
            table.append(row)
    return table


REPETITION = Claim(
    title="One trained vector, repeated, does what the whole prompt did",
    source="EPT, section 3.2, figure 4: three copies of a P-Tuning vector keep 95 % on BoolQ; prompt tuning's do not",
    rule="One of the ten vectors is used alone and repeated: the one that scores highest on the validation rows when "
    "it is repeated to the whole prompt's length. The effect is kept if it gets more than 0.9 of the way from the "
    "floor to the whole prompt, with the interval above 0, over runs that learned their task. Prompt tuning has "
    "to show the opposite.",
    settings=fixed(SETTINGS),
    arms=both_rates(SETTINGS),
    probes=("copies",),
    checks=checks,
    figure=figure,
    rows=rows,
)
