"""Claim: one trained vector, repeated, does what the whole prompt did."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from ._arm import P_TUNING, PROMPT_TUNING, RESIDUAL, Arm
from ._check import Check, at_least
from ._claim import Claim, both_rates, fixed
from ._results import Record, Results, score

SETTINGS = (PROMPT_TUNING, P_TUNING, RESIDUAL)
# Of the way above the floor that has to be kept.
KEPT = 0.9


def alone(length: int) -> Callable[[Record], float | None]:
    """The score of one vector repeated so often."""
    return lambda record: (record.get("repeated") or {}).get(str(length))


def shares(results: Results, arm: Arm | None, length: int) -> list[float]:
    """Of each run that learned, the share of the way from the floor to the whole prompt that one vector gets."""
    found = []
    for (task, _), record in results.learned(arm).items():
        value, full, floor = alone(length)(record), score(record), results.floor(task)
        if value is not None and full is not None:
            found.append((value - floor) / (full - floor))
    return found


def checks(results: Results) -> Sequence[Check]:
    """At the whole prompt's length; of prompt tuning too, which is said not to do it."""
    length = max(results.design.repeats)
    found = []
    for setting in (P_TUNING, RESIDUAL, PROMPT_TUNING):
        for rate, arm in results.arms(setting).items():
            values = [share - KEPT for share in shares(results, arm, length)]
            if setting == PROMPT_TUNING:
                title, values = f"not so in prompt tuning at {rate}", [-value for value in values]
            else:
                title = f"{setting.title} at {rate}"
            found.append(at_least(title, f"share - {KEPT:g}, x {length}", values, 0.0))
    return found


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
    shown = []
    for setting in SETTINGS:
        for rate, arm in results.arms(setting).items():
            row: dict[str, Any] = {"setting": setting.title, "rate": rate}
            row["runs that learned"] = len(results.learned(arm))
            for n in results.design.repeats:
                found = shares(results, arm, n)
                row[f"x {n}"] = f"{fmean(found):.2f}" if found else ""
            shown.append(row)
    return shown


REPETITION = Claim(
    title="One trained vector, repeated, does what the whole prompt did",
    source="EPT, section 3.2, figure 4: three copies of a P-Tuning vector keep 95 % on BoolQ; prompt tuning's do not",
    rule="Two of the ten vectors, by their place (the first and the sixth), each alone and repeated; mean of both. "
    "Kept if it gets more than 0.9 of the way from the floor to the whole prompt, interval above 0, over runs that "
    "learned their task. Of prompt tuning the opposite is asked.",
    settings=fixed(SETTINGS),
    arms=both_rates(SETTINGS),
    probes=("repeated",),
    checks=checks,
    figure=figure,
    rows=rows,
)
