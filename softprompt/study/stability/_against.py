"""One setting against another over the same seeds: is its mean higher, is its spread smaller."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..power import detectable_difference
from ..statistics import bootstrap, brown_forsythe, deviation, holm, ratio_interval, settled, wilcoxon
from ._arm import Arm

# Spreads differ if the corrected p of their test is below this level, and the interval of their ratio excludes 1. Alone
# the interval is too narrow for few seeds: of equal spreads over three seeds it finds a difference in a fifth of cases.
LEVEL = 0.05
# A mean has fallen if it lost this share of the reference's way above chance and the interval excludes 0 ...
FALLEN = 0.1
# ... or if it lost this share, whatever the interval.
COLLAPSED = 0.5


@dataclass(frozen=True, kw_only=True)
class Against:
    """One setting against the reference; what is not known is None.

    Args:
        setting: its name.
        reference: the other's.
        n: seeds that have a score in both; all below is over these pairs.
        unpaired: further seeds of either, which lack a score in one of them.
        difference: of the means, setting minus reference.
        low: end of its 95 % bootstrap interval over pairs.
        high: the other end.
        wins: seeds at which the setting scored more.
        ties: the same.
        losses: less.
        p: of Wilcoxon's signed-rank test of the differences.
        p_holm: the same, corrected for the settings compared.
        ratio: standard deviation over the reference's; infinite if only the reference has none.
        ratio_low: end of its 95 % bootstrap interval over pairs.
        ratio_high: the other end.
        p_ratio: of Brown and Forsythe's test of equal variances.
        p_ratio_holm: the same, corrected for the settings compared.
        detectable: the mean difference that n pairs with this deviation of differences find with 80 % power.
        lost: share of the reference's way above chance that the mean has lost; below 0 it gained.
        is_no_stability: a smaller deviation that comes with a mean that fell towards chance: a tenth of the way or
            more with an interval below 0, or half of it.
    """

    setting: str
    reference: str
    n: int
    unpaired: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    wins: int = 0
    ties: int = 0
    losses: int = 0
    p: float | None = None
    p_holm: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    p_ratio: float | None = None
    p_ratio_holm: float | None = None
    detectable: float | None = None
    lost: float | None = None
    is_no_stability: bool = False

    @property
    def is_lower(self) -> bool:
        """Whether the mean lost a tenth or more of the reference's way above chance, significant or not."""
        return self.lost is not None and self.lost >= FALLEN

    @property
    def is_smaller(self) -> bool:
        """Whether the deviation is smaller, by the interval of the ratio and by the corrected test."""
        return self._is_sure and self.ratio_high is not None and self.ratio_high < 1

    @property
    def is_larger(self) -> bool:
        """Whether the deviation is larger, by both."""
        return self._is_sure and self.ratio_low is not None and self.ratio_low > 1

    @property
    def _is_sure(self) -> bool:
        return self.p_ratio_holm is not None and self.p_ratio_holm < LEVEL


def against(arm: Arm, reference: Arm) -> Against:
    """The arm against the reference, over the seeds that both have; not yet corrected for other comparisons."""
    import numpy as np

    theirs = dict(zip(reference.seeds, reference.scores, strict=True))
    both = [(score, theirs.get(seed)) for seed, score in zip(arm.seeds, arm.scores, strict=True)]
    pairs = np.array([pair for pair in both if None not in pair], dtype=float).reshape(-1, 2)
    first, second = pairs.T
    differences = settled(first - second)
    comparison = Against(
        setting=arm.name,
        reference=reference.name,
        n=len(pairs),
        unpaired=len({*arm.seeds, *reference.seeds}) - len(pairs),
        difference=float(differences.mean()) if len(pairs) else None,
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
        p=wilcoxon(differences),
    )
    if len(pairs) < 2:
        return comparison
    low, high = bootstrap(differences) or (None, None)
    ratio_low, ratio_high = ratio_interval(first, second) or (None, None)
    whole = dataclasses.replace(
        comparison,
        low=low,
        high=high,
        ratio=ratio(first, second),
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        p_ratio=brown_forsythe(first, second),
        detectable=detectable_difference(len(pairs)) * float(differences.std(ddof=1)),
        lost=lost(float(first.mean()), float(second.mean()), arm.chance),
    )
    return dataclasses.replace(whole, is_no_stability=_is_no_stability(whole))


def corrected(pairs: Sequence[Against]) -> list[Against]:
    """The comparisons with Holm's correction, of each of the two tests over all of them."""
    means, spreads = holm([pair.p for pair in pairs]), holm([pair.p_ratio for pair in pairs])
    return [
        dataclasses.replace(pair, p_holm=p, p_ratio_holm=p_ratio)
        for pair, p, p_ratio in zip(pairs, means, spreads, strict=True)
    ]


def ratio(first: Any, second: Any) -> float | None:
    """std(first) / std(second): infinite if only the second does not vary, None if neither does."""
    import numpy as np

    ours, theirs = deviation(np.array([first, second]))
    if theirs > 0:
        return float(ours / theirs)
    return math.inf if ours > 0 else None


def lost(mean: float, reference: float, chance: float | None) -> float | None:
    """(reference - mean) / (reference - chance), the share of what was learned that is lost; None of nothing."""
    return None if chance is None or reference <= chance else (reference - mean) / (reference - chance)


def has_fallen(share: float | None, high: float | None) -> bool:
    """Whether a mean fell towards chance, so that less spread beside it shows nothing.

    Args:
        share: of the reference's way above chance that is lost, as by `lost`; None is not known.
        high: the upper end of the interval of the difference of means.
    """
    if share is None:
        return False
    return share >= COLLAPSED or (share >= FALLEN and high is not None and high < 0)


def _is_no_stability(comparison: Against) -> bool:
    return comparison.ratio is not None and comparison.ratio < 1 and has_fallen(comparison.lost, comparison.high)
