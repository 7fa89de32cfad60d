"""Claims: PTP's regulariser raises scores and lowers their spread over seeds; judged from the stability study."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._check import FEWEST, Check, Outcome
from ._claim import Claim
from ._results import Results

if TYPE_CHECKING:
    from ..stability import Against

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
    from ..regularizers import REGULARIZERS

    rest, _, last = setting.rpartition(", ")
    name = last.partition(":")[0]
    return (rest or REFERENCE) if name in REGULARIZERS and name != "r-drop" else None


def comparisons(results: Results, parts: Sequence[str] = JUDGED) -> "list[tuple[str, str, Against]]":
    """Part, task and setting against the same without a regulariser, over the same seeds, corrected over the settings.

    Left out where the same without one was not run: depth or units alone change much.
    """
    from ..stability import report

    found = []
    for part in parts:
        for task, settings in (results.evidence.get("stability") or {}).get(part, {}).items():
            arms = {name: arm(name, values) for name, values in settings.items() if len(values["scores"]) > 1}
            for reference in arms:
                ours = {name: one for name, one in arms.items() if without_ptp(name) == reference}
                if ours:
                    compared = report({reference: arms[reference], **ours}).comparisons
                    found += [(part, task, one) for one in compared]
    return found


def arm(name: str, values: Mapping[str, Any]) -> Any:
    """The scores of a setting as they were kept."""
    from ..stability import Arm

    scores = values["scores"]
    return Arm(name=name, seeds=tuple(scores), scores=tuple(scores.values()), chance=values["majority"])


def mean_checks(results: Results) -> Sequence[Check]:
    """One check a task and setting."""
    return [
        Check(
            condition=f"{one.setting} on {task}",
            quantity="accuracy",
            n=one.n,
            mean=one.difference,
            low=one.low,
            high=one.high,
            needed=f"≥ {GAIN:g}, interval above 0, Holm p below {LEVEL:g}",
            outcome=_gained(one),
        )
        for _, task, one in comparisons(results)
    ]


def spread_checks(results: Results) -> Sequence[Check]:
    """One check a task and setting."""
    return [
        Check(
            condition=f"{one.setting} on {task}",
            quantity="ratio of standard deviations",
            n=one.n,
            mean=_finite(one.ratio),
            low=_finite(one.ratio_low),
            high=_finite(one.ratio_high),
            needed="interval below 1, and the mean has not fallen towards chance",
            outcome=_steadier(one),
        )
        for _, task, one in comparisons(results)
    ]


def _gained(one: "Against") -> Outcome:
    if one.n < FEWEST or one.low is None or one.high is None or one.difference is None:
        return "open"
    if one.low > 0 and one.difference >= GAIN and one.p_holm is not None and one.p_holm < LEVEL:
        return "met"
    return "refuted" if one.high < GAIN else "open"


def _steadier(one: "Against") -> Outcome:
    if one.n < FEWEST or one.ratio_low is None or one.ratio_high is None:
        return "open"
    if one.ratio_high < 1:
        return "refuted" if one.is_no_stability else "met"
    return "refuted" if one.ratio_low > SMALLER else "open"


def rows(results: Results) -> Sequence[dict[str, Any]]:
    """What the screen, whose seeds chose the settings, found in the mean: how many raised and lowered it."""
    shown = []
    for task in (results.evidence.get("stability") or {}).get("screen", {}):
        found = [
            one for _, name, one in comparisons(results, ["screen"]) if name == task and one.difference is not None
        ]
        if found:
            lower = sum((one.difference or 0.0) < 0 for one in found)
            narrower = sum(one.ratio is not None and one.ratio < 1 for one in found)
            seeds = f"{min(one.n for one in found)}"
            row = {"screen": task, "seeds": seeds, "PTP settings": len(found), "lower mean": lower}
            shown.append({**row, "smaller spread": narrower})
    return shown


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


_SOURCE = "PTP, abstract: +1.94 % on SuperGLUE, +2.34 % on FewGLUE, and a smaller variance over seeds"
PTP_MEAN = Claim(
    title="PTP raises the scores of prompt tuning",
    source=_SOURCE,
    rule="From the stability study (stability.md), its confirmation on fresh seeds alone: test score minus that "
    "without a regulariser, same seed. Raised if the mean is 0.01 or more, the interval above 0 and Wilcoxon's p, "
    "corrected by Holm over the settings of the task, below 0.05.",
    checks=mean_checks,
    rows=rows,
)
PTP_SPREAD = Claim(
    title="PTP lowers the spread over seeds",
    source=_SOURCE,
    rule="From the same runs: standard deviation over that without a regulariser. Lower if the interval is below 1 and "
    "the mean did not fall towards chance; refuted if the interval leaves out a fall by a fifth.",
    checks=spread_checks,
)
