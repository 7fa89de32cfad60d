"""How good some settings are, and how sure that is: over repeats (other seeds) and over rows, both at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..inference.intervals import LEVEL, RESAMPLES, statistic_of
from ..metrics import ERRORS


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one trained prompt answers to some rows.

    Args:
        predictions: one a row.
        gold: what counts as right.
    """

    predictions: Sequence[Any]
    gold: Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A mean over repeats with what is known of its error.

    Args:
        mean: over repeats; a score, or a difference of scores.
        error: standard error of the mean, of repeats and rows together.
        low: lower end of the 95 % interval.
        high: its upper end.
        p: two-sided, that the mean is 0; None where nothing varies.
        each: the value of each repeat.
        rows: how many answered in each.
    """

    mean: float
    error: float
    low: float
    high: float
    p: float | None
    each: Sequence[float]
    rows: int

    @property
    def deviation(self) -> float | None:
        """Standard deviation (n - 1) over repeats; None for a single one."""
        return float(np.std(self.each, ddof=1)) if len(self.each) > 1 else None

    @property
    def is_significant(self) -> bool:
        """Whether the 95 % interval leaves out 0."""
        return self.low > 0 or self.high < 0


def score_measure(headline: Sequence[str], repeats: Sequence[Answers]) -> Measure:
    """The mean score over repeats that answer the same rows.

    Args:
        headline: the metrics whose mean is the score, an error counting negatively.
        repeats: the answers of each.
    """
    return _measured([[(1, answers)] for answers in repeats], headline, are_same_rows=True)


def lead_measure(
    headline: Sequence[str], repeats: Sequence[Answers], others: Sequence[Answers], *, are_same_rows: bool = True
) -> Measure:
    """The mean lead over repeats of one setting over another, paired by repeat and by row.

    The error adds the variance over repeats to that over rows, as both are drawn anew next time. The rows' is that of
    the bootstrap over rows of the mean over repeats; the interval takes Student's t with Satterthwaite's degrees.

    Args:
        headline: the metrics whose mean is the score, an error counting negatively.
        repeats: the answers of each repeat.
        others: those of the other setting, in the same order and on the same rows.
        are_same_rows: whether all repeats answer the same rows; those of cross-validation have rows of their own.
    """
    pairs = [[(1, ours), (-1, theirs)] for ours, theirs in zip(repeats, others, strict=True)]
    return _measured(pairs, headline, are_same_rows=are_same_rows)


# Terms of a sum: a sign, and answers.
Terms = Sequence[tuple[int, Answers]]


def _measured(repeats: Sequence[Terms], headline: Sequence[str], *, are_same_rows: bool) -> Measure:
    each = [float(_values(terms, headline, np.arange(len(terms[0][1].gold))[None])[0]) for terms in repeats]
    mean, n = float(np.mean(each)), len(each)
    of_repeats = float(np.var(each, ddof=1)) / n if n > 1 else 0.0
    blocks = [repeats] if are_same_rows else [[terms] for terms in repeats]
    # Rows of folds are independent of each other, so the variance of the mean over folds is that of a sum.
    of_rows = sum(_row_variance(block, headline) * (len(block) / n) ** 2 for block in blocks)
    rows = len(repeats[0][0][1].gold) if are_same_rows else sum(len(terms[0][1].gold) for terms in repeats)
    error = math.sqrt(of_repeats + of_rows)
    half, p = _student(mean, error, ((of_repeats, n - 1), (of_rows, rows - 1)))
    return Measure(mean=mean, error=error, low=mean - half, high=mean + half, p=p, each=each, rows=rows)


def _row_variance(repeats: Sequence[Terms], headline: Sequence[str]) -> float:
    """The variance over resampled rows of the mean over repeats, which all answer these rows."""
    n = len(repeats[0][0][1].gold)
    drawn = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    return float(np.var(np.mean([_values(terms, headline, drawn) for terms in repeats], axis=0)))


def _values(terms: Terms, headline: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """The sum of terms on each resample [resamples, n] of rows."""
    return sum((sign * _scores(answers, headline, rows) for sign, answers in terms), np.zeros(len(rows)))


def _scores(answers: Answers, headline: Sequence[str], rows: np.ndarray) -> np.ndarray:
    metrics = [
        (-1 if name in ERRORS else 1) * statistic_of(name, answers.predictions, answers.gold)(rows) for name in headline
    ]
    return np.mean(metrics, axis=0)


def _student(mean: float, error: float, parts: Sequence[tuple[float, int]]) -> tuple[float, float | None]:
    """Half of the 95 % interval, and the two-sided p of no difference.

    Args:
        mean: what was measured.
        error: its standard error.
        parts: the variances that make it up, each with its degrees of freedom.
    """
    from scipy import stats

    if error == 0:
        return 0.0, None
    degrees = error**4 / sum(variance**2 / max(1, freedom) for variance, freedom in parts if variance)
    half = float(stats.t.ppf((1 + LEVEL) / 2, degrees)) * error
    return half, float(2 * stats.t.sf(abs(mean) / error, degrees))
