"""From numbers to a verdict. These rules were written before the runs and use the numbers alone.

A check is a statement about a mean over pairs of (task, seed), with a margin below which an effect would not matter.
A claim is made of checks under several conditions: it holds, holds only under some, does not hold, or is not decided.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..common.paired import Mean

Outcome = Literal["met", "refuted", "open"]
HOLDS, ONLY_IF, FAILS, OPEN = "holds", "holds only if", "does not hold here", "not decided"
# Fewer values decide nothing, because the bootstrap's interval is far too narrow for them.
FEWEST = 6


@dataclass(frozen=True, kw_only=True)
class Check:
    """One statement under one condition, and the result of the runs.

    Args:
        condition: under which, as in "EPT, each at its own rate".
        quantity: what was measured, one value a task and seed.
        n: values.
        mean: of them; None without any.
        low: lower end of the mean's 95 % bootstrap interval; None for fewer than two values.
        high: the upper end.
        needed: the rule, in words.
        outcome: what it says.
    """

    condition: str
    quantity: str
    n: int
    mean: float | None
    low: float | None
    high: float | None
    needed: str
    outcome: Outcome


def at_least(condition: str, quantity: str, values: Sequence[float], margin: float) -> Check:
    """Whether a mean is above 0 and at least the margin.

    Met: the interval lies above 0 and the mean is the margin or more. Refuted: the whole interval lies below the
    margin (below 0 for a margin of 0). Open: neither, or fewer than six values.
    """

    def outcome(mean: float, low: float, high: float) -> Outcome:
        return "met" if low > 0 and mean >= margin else "refuted" if high < margin else "open"

    return _check(condition, quantity, values, f"≥ {margin:g}, interval above 0", outcome)


def within(condition: str, quantity: str, values: Sequence[float], margin: float) -> Check:
    """Whether a mean is so near 0 that it would not matter.

    Met: the whole interval lies within the margin on both sides of 0. Refuted: it leaves out 0 and the mean is beyond
    the margin. Open: neither, or fewer than six values.
    """

    def outcome(mean: float, low: float, high: float) -> Outcome:
        is_off = (low > 0 or high < 0) and abs(mean) >= margin
        return "met" if -margin < low and high < margin else "refuted" if is_off else "open"

    return _check(condition, quantity, values, f"interval within ± {margin:g}", outcome)


def verdict(checks: Sequence[Check]) -> str:
    """The verdict of all checks of a claim, in one line.

    All met: it holds. Some met: it holds only under these conditions. None met and all refuted: it does not hold
    here. Otherwise nothing is decided.
    """
    met = [check.condition for check in checks if check.outcome == "met"]
    if met and len(met) == len(checks):
        return HOLDS
    if met:
        return f"{ONLY_IF}: {'; '.join(met)}"
    is_refuted = bool(checks) and all(check.outcome == "refuted" for check in checks)
    return FAILS if is_refuted else OPEN


def _check(
    condition: str, quantity: str, values: Sequence[float], needed: str, judge: Callable[[float, float, float], Outcome]
) -> Check:
    """A check of values; open where they are fewer than six."""
    summary = Mean.of(values)
    outcome: Outcome = "open"
    if summary.n >= FEWEST and summary.mean is not None and summary.low is not None and summary.high is not None:
        outcome = judge(summary.mean, summary.low, summary.high)
    return Check(condition=condition, quantity=quantity, needed=needed, outcome=outcome, **vars(summary))
