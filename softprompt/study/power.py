"""The smallest effects that a comparison of two arms finds with 80 % power for a given number of seeds.

Two-sided tests at 5 %, for normal scores. No torch here.
"""

import functools
import math
from typing import Any

from ..errors import BadInput

LEVEL = 0.05
POWER = 0.8
# Number of simulated pairs of samples for the power of a test.
SIMULATED = 4000
# The smallest ratio that is searched. Below it one deviation is a rounding error of the other.
SMALLEST = 1e-6


def power_of_ratio(ratio: float, n: int) -> float:
    """The chance that an F test of n against n normal scores finds that their deviations have this ratio.

        P(F < q(0.025) / ratio^2) + P(F > q(0.975) / ratio^2),    F with n - 1 and n - 1 degrees of freedom

    The F test finds more than any other where scores are normal, and is not to be trusted where they are not.
    """
    from scipy import stats

    f = stats.f(n - 1, n - 1)
    low, high = f.ppf([LEVEL / 2, 1 - LEVEL / 2]) / ratio**2
    return float(f.cdf(low) + f.sf(high))


def detectable_ratio(n: int) -> float:
    """The ratio of standard deviations, below 1, that an F test of n against n scores finds with 80 % power.

    Its inverse is the ratio above 1.

    Raises:
        BadInput: fewer than two scores.
    """
    from scipy import optimize

    _refuse_few(n)
    log_ratio: Any = optimize.brentq(lambda log: power_of_ratio(math.exp(log), n) - POWER, math.log(SMALLEST), 0.0)
    return math.exp(log_ratio)


@functools.cache
def detectable_ratio_by_brown_forsythe(n: int) -> float | None:
    """The same for the test that is made, which needs more seeds but no normal scores; None where no ratio is found.

    Simulated with 4,000 seeded pairs of normal samples, to about 0.01.

    Raises:
        BadInput: fewer than two scores.
    """
    import numpy as np
    from scipy import optimize, stats

    _refuse_few(n)
    drawn = np.random.default_rng(0).normal(size=(2, SIMULATED, n))
    # Brown and Forsythe's test is an analysis of variance of these; the second arm's scale with its deviation.
    first, second = np.abs(drawn - np.median(drawn, axis=2, keepdims=True))

    def missed(log: float) -> float:
        ps = stats.f_oneway(first, math.exp(log) * second, axis=1).pvalue
        return POWER - float((ps < LEVEL).mean())

    if n < 3 or missed(math.log(SMALLEST)) > 0:
        return None
    log_ratio: Any = optimize.bisect(missed, math.log(SMALLEST), 0.0, xtol=1e-3)
    return math.exp(log_ratio)


def seeds_for_ratio(ratio: float) -> int:
    """The fewest scores an arm with which an F test finds this ratio of deviations with 80 % power.

    Raises:
        BadInput: a ratio that is not positive, or 1.
    """
    if not (ratio > 0 and math.isfinite(ratio)) or ratio == 1:
        raise BadInput(f"a ratio of standard deviations to look for is positive and not 1, not {ratio}")
    few, many = 1, 2
    while power_of_ratio(ratio, many) < POWER:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if power_of_ratio(ratio, middle) >= POWER else (middle, many)
    return many


def detectable_difference(n: int) -> float:
    """The mean difference, in standard deviations of the n paired differences, that a t test finds with 80 % power.

        P(T > t(0.975)),    T noncentral with n - 1 degrees of freedom and noncentrality difference * sqrt(n)

    The other tail, below 1e-4 here, is left out. Wilcoxon's test, which is made, finds a little less in normal
    differences.

    Raises:
        BadInput: fewer than two pairs.
    """
    from scipy import optimize, stats

    _refuse_few(n)
    edge = stats.t(n - 1).ppf(1 - LEVEL / 2)

    def missed(noncentrality: float) -> float:
        return POWER - float(stats.nct(n - 1, noncentrality).sf(edge))

    # 16.4 for two pairs, less for more.
    effect: Any = optimize.brentq(missed, 1e-9, 20.0)
    return float(effect) / math.sqrt(n)


def _refuse_few(n: int) -> None:
    if n < 2:
        raise BadInput(f"{n} scores have no standard deviation; at least two are needed")
