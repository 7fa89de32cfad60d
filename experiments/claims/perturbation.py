"""Claims: PTP's regulariser raises scores and lowers their spread over seeds; judged from the stability study."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .check import FEWEST, Check, Outcome
from .claim import Claim
from .results import Results

if TYPE_CHECKING:
    from softprompt.study.stability import Against

REFERENCE = "nothing"
GAIN, LEVEL = 0.01, 0.05
# A spread that is smaller by less would not matter.
SMALLER = 0.8
# Seeds on which settings were chosen decide nothing.
JUDGED = ("confirm", "real")


def without_ptp(setting: str) -> str | None:
    """The same setting without its regulariser; None where there is none of PTP's kinds.

    >>> without_ptp("ptp-adv"), without_ptp("deep, rn-emb:sigma=0.3,alpha=1"), without_ptp("restarts 3")
    ('nothing', 'deep', None)
    """
    from softprompt.regularizers import REGULARIZERS

    rest, _, last = setting.rpartition(", ")
    name = last.partition(":")[0]
    return (rest or REFERENCE) if name in REGULARIZERS and name != "r-drop" else None


def comparisons(results: Results, parts: Sequence[str] = JUDGED) -> "list[tuple[str, str, Against]]":
    """Part, task and setting against the same without a regulariser, over the same seeds.

    Both tests are corrected over all settings of the task, whatever each is held against. Left out where the same
    without one was not run: depth or units alone change much.
    """
    return [
        (part, task, comparison)
        for part in parts
        for task, settings in (results.evidence.get("stability") or {}).get(part, {}).items()
        for comparison in compared(settings)
    ]


def compared(settings: Mapping[str, Any]) -> "list[Against]":
    """The settings of one task that have a regulariser, each against the same without; corrected over all of them."""
    from softprompt.study.stability import corrected

    arms = {name: arm(name, values) for name, values in settings.items() if len(values["scores"]) > 1}
    pairs = [(arms[name], arms[other]) for other in arms for name in arms if without_ptp(name) == other]
    return corrected([_against(ours, other) for ours, other in pairs])


@functools.cache
def _against(ours: Any, other: Any) -> "Against":
    """`against`, once for each pair: its resamples take a tenth of a second, and several tables need the same pair."""
    from softprompt.study.stability import against

    return against(ours, other)


def arm(name: str, values: Mapping[str, Any]) -> Any:
    """The scores of a setting as they were kept."""
    from softprompt.study.stability import Arm

    scores = values["scores"]
    return Arm(name=name, seeds=tuple(scores), scores=tuple(scores.values()), chance=values["majority"])


def mean_checks(results: Results) -> Sequence[Check]:
    """One check a task and setting."""
    return [mean_check(task, comparison) for _, task, comparison in comparisons(results)]


def spread_checks(results: Results) -> Sequence[Check]:
    """One check a task and setting."""
    return [spread_check(task, comparison) for _, task, comparison in comparisons(results)]


def mean_check(task: str, comparison: "Against") -> Check:
    """Whether a setting raises the mean on a task."""
    return Check(
        condition=f"{comparison.setting} on {task}",
        quantity="accuracy",
        n=comparison.n,
        mean=comparison.difference,
        low=comparison.low,
        high=comparison.high,
        needed=f"≥ {GAIN:g}, interval above 0, Holm p below {LEVEL:g}",
        outcome=_gained(comparison),
    )


def spread_check(task: str, comparison: "Against") -> Check:
    """Whether a setting lowers the spread over seeds on a task."""
    return Check(
        condition=f"{comparison.setting} on {task}",
        quantity="ratio of standard deviations",
        n=comparison.n,
        mean=_finite(comparison.ratio),
        low=_finite(comparison.ratio_low),
        high=_finite(comparison.ratio_high),
        needed=f"interval below 1, Holm p below {LEVEL:g}, and the mean has not fallen towards chance",
        outcome=_steadier(comparison),
    )


def _gained(comparison: "Against") -> Outcome:
    if comparison.n < FEWEST or comparison.low is None or comparison.high is None or comparison.difference is None:
        return "open"
    if comparison.low > 0 and comparison.difference >= GAIN and _is_sure(comparison.p_holm):
        return "met"
    return "refuted" if comparison.high < GAIN else "open"


def _steadier(comparison: "Against") -> Outcome:
    if comparison.n < FEWEST or comparison.ratio_low is None or comparison.ratio_high is None:
        return "open"
    if comparison.ratio_high < 1 and comparison.is_no_stability:
        return "refuted"
    if comparison.ratio_high < 1 and _is_sure(comparison.p_ratio_holm):
        return "met"
    return "refuted" if comparison.ratio_low > SMALLER else "open"


def _is_sure(p: float | None) -> bool:
    return p is not None and p < LEVEL


def mean_rows(results: Results) -> Sequence[dict[str, Any]]:
    """How many settings raised and lowered the mean, by part and task; the screen's seeds chose the settings."""
    return _both_ways(results, "raised / lowered", _of_mean)


def spread_rows(results: Results) -> Sequence[dict[str, Any]]:
    """How many settings narrowed and widened the spread, likewise."""
    return _both_ways(results, "narrower / wider", _of_spread)


@dataclass(frozen=True)
class _Effect:
    """What a comparison found, a good effect being above 0: its size, its interval, and Holm's p."""

    size: float | None
    low: float | None
    high: float | None
    p_holm: float | None


def _of_mean(comparison: "Against") -> _Effect:
    return _Effect(comparison.difference, comparison.low, comparison.high, comparison.p_holm)


def _of_spread(comparison: "Against") -> _Effect:
    size, low, high = (
        None if v is None else 1 - v for v in (comparison.ratio, comparison.ratio_high, comparison.ratio_low)
    )
    # A smaller deviation beside a mean that fell towards chance shows nothing.
    return _Effect(size, None if comparison.is_no_stability else low, high, comparison.p_ratio_holm)


def _both_ways(results: Results, ways: str, effect: Callable[["Against"], _Effect]) -> list[dict[str, Any]]:
    """One row a part and task: settings, how many of them went each way, and of how many that is shown."""
    table = []
    for part, tasks in (results.evidence.get("stability") or {}).items():
        for task in tasks:
            compared = [item for _, name, item in comparisons(results, [part]) if name == task]
            effects = [item for item in map(effect, compared) if item.size is not None]
            beyond = [item for item in effects if (item.low or 0.0) > 0 or (item.high or 0.0) < 0]
            sure = [item for item in beyond if _is_sure(item.p_holm)]
            if effects:
                row = {"runs": f"{part}, {task}", "seeds": min(item.n for item in compared), "settings": len(effects)}
                columns = {ways: effects, f"{ways}, by interval": beyond, f"{ways}, Holm p below {LEVEL:g}": sure}
                table.append({**row, **{name: _ways(chosen) for name, chosen in columns.items()}})
    return table


def _ways(effects: Sequence[_Effect]) -> str:
    good, bad = (sum(sign * (item.size or 0.0) > 0 for item in effects) for sign in (1, -1))
    return f"{good} / {bad}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


_SOURCE = "PTP, abstract: +1.94 % on SuperGLUE, +2.34 % on FewGLUE, and a smaller variance over seeds"
PTP_MEAN = Claim(
    title="PTP raises the scores of prompt tuning",
    source=_SOURCE,
    rule="Only the confirmation on fresh seeds counts, from the stability study "
    "([stability](../../docs/results/stability.md)). Test "
    "score minus that without a regulariser, same seed. Raised if the mean is 0.01 or more, the interval is above 0, "
    "and Wilcoxon's p, corrected by Holm over the settings of the task, is below 0.05.",
    checks=mean_checks,
    rows=mean_rows,
)
PTP_SPREAD = Claim(
    title="PTP lowers the spread over seeds",
    source=_SOURCE,
    rule="From the same runs: standard deviation over that without a regulariser. Lower if the interval is below 1, "
    "Brown and Forsythe's p, corrected by Holm over the settings of the task, is below 0.05, and the mean did not "
    "fall towards chance. Refuted if the interval excludes a fall by a fifth.",
    checks=spread_checks,
    rows=spread_rows,
)
