"""Intervals and paired tests: pure functions of scores. No torch here."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

RESAMPLES, SEED = 10_000, 0
# The quantiles between which 95 % of the resamples are.
ENDS = (1 - 0.95) / 2, (1 + 0.95) / 2
# Values that are drawn at a time.
_DRAWN = 1_000_000
# Differences up to which Wilcoxon's p is exact: the choices of their signs are then counted without rounding.
_EXACT = 50


def mean(drawn: "np.ndarray") -> "np.ndarray":
    """The mean of each resample."""
    return drawn.mean(axis=1)


def bootstrap(values: Any, statistic: "Callable[[np.ndarray], np.ndarray]" = mean) -> tuple[float, float] | None:
    """The percentile bootstrap interval of a statistic; None for fewer than two values.

    With n values the ends are the 2.5 % and 97.5 % quantiles of the statistic over resamples of n values with
    repetition (Efron, 1979). With few values it is too narrow: its coverage at n = 5 is about 0.85 for 0.95.

    Args:
        values: [n], or [n, k] to resample rows, as pairs of scores.
        statistic: [resamples, n] or [resamples, n, k] to [resamples].
    """
    import numpy as np

    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    parts = [statistic(values[places]) for places in _resampled(len(values))]
    low, high = np.quantile(np.concatenate(parts), ENDS)
    return float(low), float(high)


def _resampled(n: int) -> "Iterable[np.ndarray]":
    """The places of the values of each resample: [at a time, n].

    In parts, because all resamples of thousands of values take hundreds of megabytes; the draws are the same.
    """
    import numpy as np

    if n * RESAMPLES <= _DRAWN:
        return (_in_one_part(n),)
    random, rows = np.random.default_rng(SEED), max(1, _DRAWN // n)
    sizes = (min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows))
    return (random.integers(0, n, (size, n)) for size in sizes)


@functools.lru_cache(maxsize=1)
def _in_one_part(n: int) -> "np.ndarray":
    """Kept, because the groups of a table mostly have one size, and drawing takes longer than the rest."""
    import numpy as np

    places = np.random.default_rng(SEED).integers(0, n, (RESAMPLES, n))
    places.flags.writeable = False
    return places


def mean_of_known(values: Sequence[float | int | None]) -> float | None:
    """The mean of those values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def deviation(drawn: "np.ndarray") -> "np.ndarray":
    """The standard deviation (n - 1) of each resample, over its second axis; exactly 0 of equal values."""
    import numpy as np

    # Rounding gives a deviation of about 1e-17 to equal numbers that are no binary fractions.
    return np.where(np.ptp(drawn, axis=1) > 0, drawn.std(axis=1, ddof=1), 0.0)


def ratio_interval(first: Any, second: Any) -> tuple[float, float] | None:
    """The percentile bootstrap interval of std(first) / std(second) over pairs; the resamples are those of `bootstrap`.

    A resample in which only the second has no deviation is infinitely large, one in which neither has any says nothing
    and is left out. None where fewer than two pairs are given, or nothing is left.

    Args:
        first: [n].
        second: [n], in the same order.
    """
    import numpy as np

    pairs = np.stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)], axis=1)
    if len(pairs) < 2:
        return None
    drawn = pairs[np.random.default_rng(SEED).integers(0, len(pairs), (RESAMPLES, len(pairs)))]
    varies = np.ptp(drawn, axis=1).any(axis=1)
    ratios = np.sort(ratio_of_deviations(drawn[varies]))
    if not len(ratios):
        return None
    places = (len(ratios) - 1) * np.array(ENDS)
    low, high = ratios[places.round().astype(int)]
    return float(low), float(high)


def ratio_of_deviations(drawn: "np.ndarray") -> "np.ndarray":
    """Standard deviation of the first column over that of the second, for `bootstrap` over pairs."""
    import numpy as np

    first, second = np.moveaxis(deviation(drawn), -1, 0)
    # A resample that repeats one pair has no deviation.
    return np.divide(first, second, out=np.full_like(first, math.inf), where=second > 0)


def settled(differences: Any) -> "np.ndarray":
    """Differences of scores without the rounding error of the subtraction: at most 12 decimals."""
    import numpy as np

    return np.round(np.asarray(differences, dtype=float), 12)


def wilcoxon(differences: Any) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test, zeros left out; 1 if all are zero, None for no differences.

    Differences that are equal but for the rounding of their scores tie: .75 - .73 and .63 - .61 differ by 1e-17. The p
    is exact, with ties too, up to 50 differences that are not zero, and of the normal approximation above.
    """
    from scipy import stats

    differences = settled(differences)
    if not len(differences):
        return None
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    if len(differences) <= _EXACT:
        return _exact_wilcoxon(differences)
    result: Any = stats.wilcoxon(differences)
    return float(result.pvalue)


def _exact_wilcoxon(differences: "np.ndarray") -> float:
    """The share of all choices of signs whose smaller rank sum is at most that of the differences."""
    import numpy as np
    from scipy import stats

    # Equal sizes share their mean rank, which is a whole number or a half: twice a rank is whole.
    ranks = np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)
    choices = np.ones(1)
    for rank in ranks:
        added = np.zeros(rank)
        choices = np.concatenate([choices, added]) + np.concatenate([added, choices])
    positive = ranks[differences > 0].sum()
    at_most = choices[: min(positive, ranks.sum() - positive) + 1].sum()
    return min(1.0, float(2 * at_most / choices.sum()))


def brown_forsythe(first: Any, second: Any) -> float | None:
    """Two-sided p of Brown and Forsythe's test (1974) that two samples have one variance.

    Levene's test on the deviations from the medians. It takes the samples as independent. None where it has nothing to
    compare: fewer than three values a sample, or deviations that are equal within both samples.
    """
    import numpy as np
    from scipy import stats

    samples = [np.asarray(values, dtype=float) for values in (first, second)]
    if min(map(len, samples)) < 3:
        return None
    deviations = [np.abs(values - np.median(values)) for values in samples]
    # With two values above and two below, for example, the test would divide by 0 or by a rounding error.
    if all(np.ptp(d) <= 1e-12 * max(1.0, d.max()) for d in deviations):
        return None
    result: Any = stats.levene(*samples, center="median")
    return float(result.pvalue)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's correction (1979) of the p of several tests, in their order: at most this share of all has a false find.

    The k-th smallest of m is multiplied by m - k + 1, never below one before it and never above 1. None is no test, and
    not counted.
    """
    corrected: list[float | None] = [None] * len(ps)
    tests = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    highest = 0.0
    for rank, (p, place) in enumerate(tests):
        highest = max(highest, min(1.0, p * (len(tests) - rank)))
        corrected[place] = highest
    return corrected
