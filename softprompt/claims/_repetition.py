"""Claim: one trained vector, repeated, does what the whole prompt did."""

from collections.abc import Callable, Sequence
from typing import Any

from ._arm import P_TUNING, PROMPT_TUNING, RESIDUAL
from ._check import Check, at_least
from ._claim import Claim, both_rates, fixed
from ._results import Record, Results, score

SETTINGS = (PROMPT_TUNING, P_TUNING, RESIDUAL)
# Of the way above chance that has to be kept.
KEPT = 0.9


def alone(length: int) -> Callable[[Record], float | None]:
    """The score of one vector repeated so often."""
    return lambda record: (record.get("repeated") or {}).get(str(length))


def surplus(record: Record, length: int) -> float | None:
    """What one vector scores above 0.9 of the way from chance to the whole prompt's score."""
    value, full, chance = alone(length)(record), score(record), record["majority"] or 0.0
    return None if value is None or full is None else value - (chance + KEPT * (full - chance))


def checks(results: Results) -> Sequence[Check]:
    """At the whole prompt's length; of prompt tuning too, which is said not to do it."""
    length = max(results.design.repeats)
    found = []
    for setting in (P_TUNING, RESIDUAL, PROMPT_TUNING):
        for rate, arm in results.arms(setting).items():
            known = [surplus(record, length) for record in results.learned(arm).values()]
            values = [value for value in known if value is not None]
            if setting == PROMPT_TUNING:
                title, values = f"not so in prompt tuning at {rate}", [-value for value in values]
            else:
                title = f"{setting.title} at {rate}"
            found.append(at_least(title, f"accuracy, x {length}", values, 0.0))
    return found


def figure(results: Results, plots: Any) -> Any:
    """Share of the way above chance that is kept, over the number of repetitions."""
    curves = {}
    for setting in SETTINGS:
        for rate, arm in results.arms(setting).items():
            runs = results.learned(arm).values()
            lengths = [n for n in results.design.repeats if any(alone(n)(run) is not None for run in runs)]
            if lengths:
                means = [_mean([v for run in runs if (v := kept(run, n)) is not None]) for n in lengths]
                curves[f"{setting.title}, {rate}"] = (lengths, means, None, None)
    return curves and plots.curve_figure(
        curves,
        x="copies of one trained vector",
        y="share of the way above chance that is kept",
        log_x=False,
        title="runs that learned their task",
    )


def kept(record: Record, length: int) -> float | None:
    """Share of the way from chance to the whole prompt's score that one vector gets."""
    value, full, chance = alone(length)(record), score(record), record["majority"] or 0.0
    return None if value is None or full is None or full <= chance else (value - chance) / (full - chance)


def rows(results: Results) -> Sequence[dict[str, Any]]:
    """Mean shares of each arm by length."""
    shown = []
    for setting in SETTINGS:
        for rate, arm in results.arms(setting).items():
            runs = results.learned(arm).values()
            row: dict[str, Any] = {"setting": setting.title, "rate": rate, "runs that learned": len(runs)}
            for n in results.design.repeats:
                shares = [share for run in runs if (share := kept(run, n)) is not None]
                row[f"x {n}"] = f"{_mean(shares):.2f}" if shares else ""
            shown.append(row)
    return shown


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


REPETITION = Claim(
    title="One trained vector, repeated, does what the whole prompt did",
    source="EPT, section 3.2, figure 4: three copies of a P-Tuning vector keep 95 % on BoolQ; prompt tuning's do not",
    rule="Two of the ten vectors, by their place (the first and the sixth), each alone and repeated; mean of both. "
    "Kept if it scores more than 0.9 of the way from chance to the whole prompt, interval above 0, over runs that "
    "learned their task (half of the way from chance to the task's best run). Of prompt tuning the opposite is asked.",
    settings=fixed(SETTINGS),
    arms=both_rates(SETTINGS),
    probes=("repeated",),
    checks=checks,
    figure=figure,
    rows=rows,
)
