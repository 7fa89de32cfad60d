"""Intervals and paired tests: pure functions of scores. No torch here."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


def mean(drawn: "np.ndarray") -> "np.ndarray":
    """The mean of each resample."""
    return drawn.mean(axis=1)


def bootstrap(
    values: Any,
    statistic: "Callable[[np.ndarray], np.ndarray]" = mean,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of a statistic; None for fewer than two values.

    With n values the ends are the (1 - confidence) / 2 quantiles of the statistic over resamples of n values with
    repetition (Efron, 1979). With few values it is too narrow: its coverage at n = 5 is about 0.85 for 0.95.

    Args:
        values: [n], or [n, k] to resample rows, as pairs of scores.
        statistic: [resamples, n] or [resamples, n, k] to [resamples].
        confidence: in 0..1.
        resamples: how many.
        seed: of the resamples.
    """
    import numpy as np

    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(statistic(values[draws]), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def ratio_of_deviations(drawn: "np.ndarray") -> "np.ndarray":
    """Standard deviation of the first column over that of the second, for `bootstrap` over pairs."""
    import numpy as np

    first, second = np.moveaxis(drawn.std(axis=1, ddof=1), -1, 0)
    # A resample of one pair repeated has no deviation to compare with.
    return np.divide(first, second, out=np.full_like(first, math.inf), where=second > 0)


def wilcoxon(differences: Any) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test, zeros left out; 1 if all are zero, None for no differences."""
    import numpy as np
    from scipy import stats

    differences = np.asarray(differences, dtype=float)
    if not len(differences):
        return None
    if not differences.any():
        return 1.0
    result: Any = stats.wilcoxon(differences)
    return float(result.pvalue)
