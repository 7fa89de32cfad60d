"""How far a metric of n rows may be from that of many more: 95 % intervals.

Wilson's for shares of rows; else the bootstrap's percentiles over resampled rows. Each metric of this package is
written here for all resamples at once, which scikit-learn's are not; the tests hold them equal.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..metrics import ERRORS, METRICS, farthest, lowered, opposed

LEVEL = 0.95
RESAMPLES = 1000
# Numbers that a batch of resamples may hold.
BATCH = 2**21
SHARES = ("accuracy", "exact-match")

Interval = tuple[float, float]
# Indices of rows [..., n] to a metric of each resample [...].
Statistic = Callable[..., np.ndarray]


def intervals(
    metrics: Sequence[str], headline: Sequence[str], predictions: Sequence[Any], gold: Sequence[Any], seed: int = 0
) -> dict[str, Interval]:
    """The 95 % interval of each metric and of the score, their mean; empty for a single row.

    Args:
        metrics: names in METRICS.
        headline: those whose mean is the score, an error counting negatively.
        predictions: one a row.
        gold: what counts as right.
        seed: of the resamples.
    """
    if len(gold) < 2:
        return {}
    statistics = {name: statistic_of(name, predictions, gold) for name in metrics}
    bounds = {
        name: _wilson(METRICS[name](predictions, gold), len(gold))
        if name in SHARES
        else _bootstrap(statistics[name], len(gold), seed)
        for name in metrics
    }
    if len(headline) == 1:
        low, high = bounds[headline[0]]
        return {**bounds, "score": (-high, -low) if headline[0] in ERRORS else (low, high)}
    signs = {name: -1 if name in ERRORS else 1 for name in headline}

    def mean(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean([signs[name] * statistics[name](rows) for name in headline], axis=0)

    return {**bounds, "score": _bootstrap(mean, len(gold), seed)}


def difference_interval(
    headline: Sequence[str],
    predictions: Sequence[Any],
    others: Sequence[Any],
    gold: Sequence[Any],
    seed: int = 0,
) -> Interval:
    """The 95 % interval of how much better the score of one set of answers is than that of another, on the same rows.

    Rows are drawn in pairs, so that what makes a row easy for both does not count. A single row tells nothing: its
    interval is all that two scores from 0 to 1 may differ by.

    Args:
        headline: the metrics whose mean is the score, an error counting negatively.
        predictions: one a row.
        others: the same of what is compared with.
        gold: what counts as right.
        seed: of the resamples.
    """
    if len(gold) < 2:
        return -1.0, 1.0
    both = [[statistic_of(name, answers, gold) for name in headline] for answers in (predictions, others)]
    signs = [-1 if name in ERRORS else 1 for name in headline]

    def difference(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = zip(signs, *both, strict=True)
        return np.mean([sign * (ours(rows) - theirs(rows)) for sign, ours, theirs in pairs], axis=0)

    return _bootstrap(difference, len(gold), seed)


def statistic_of(name: str, predictions: Sequence[Any], gold: Sequence[Any]) -> Statistic:
    """A metric of these answers on any resample of their rows.

    Args:
        name: in METRICS.
        predictions: one a row.
        gold: what counts as right.
    """
    return STATISTICS.get(name, _one_by_one(name))(predictions, gold)


def _wilson(share: float, n: int) -> Interval:
    from scipy.stats import binomtest

    interval = binomtest(round(share * n), n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def _bootstrap(statistic: Statistic, n: int, seed: int) -> Interval:
    from scipy.stats import bootstrap

    resampled = bootstrap(
        (np.arange(n),),
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH // n),
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(resampled.low), float(resampled.high)


def _mean_of(each: np.ndarray) -> Statistic:
    return lambda rows, axis=-1: each[rows].mean(-1)


def _hits(predictions: Sequence[int], gold: Sequence[int]) -> Statistic:
    return _mean_of(np.asarray(predictions) == np.asarray(gold))


def _by_row(name: str) -> Callable[[Sequence[Any], Sequence[Any]], Statistic]:
    """A metric that is the mean of each row's own."""

    def made(predictions: Sequence[Any], gold: Sequence[Any]) -> Statistic:
        pairs = zip(predictions, gold, strict=True)
        return _mean_of(np.array([METRICS[name]([predicted], [right]) for predicted, right in pairs]))

    return made


def _one_by_one(name: str) -> Callable[[Sequence[Any], Sequence[Any]], Statistic]:
    """A metric of the user's own, computed on each resample alone."""

    def made(predictions: Sequence[Any], gold: Sequence[Any]) -> Statistic:
        def statistic(rows: np.ndarray, axis: int = -1) -> np.ndarray:
            drawn = rows.reshape(-1, rows.shape[-1]).tolist()
            values = [METRICS[name]([predictions[i] for i in each], [gold[i] for i in each]) for each in drawn]
            return np.array(values).reshape(rows.shape[:-1])

        return statistic

    return made


def _of_counts(
    predictions: Sequence[int], gold: Sequence[int], metric: Callable[[np.ndarray], np.ndarray]
) -> Statistic:
    """A metric of the table [..., k, k] of gold and predicted classes; an invalid answer is the last class."""
    k = max(*gold, *predictions) + 2
    codes = np.asarray(gold) * k + np.asarray(predictions) % k

    def tables(flat: np.ndarray) -> np.ndarray:
        places = np.arange(len(flat))[:, None] * k * k
        return np.bincount((flat + places).ravel(), minlength=len(flat) * k * k).reshape(-1, k, k).astype(float)

    def statistic(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        flat = codes[rows].reshape(-1, rows.shape[-1])
        # In parts: the tables of hundreds of classes are larger than the rows that they count.
        parts = np.array_split(flat, -(-len(flat) * k * k // BATCH))
        return np.concatenate([metric(tables(part)) for part in parts]).reshape(rows.shape[:-1])

    return statistic


def _class_f1(table: np.ndarray) -> np.ndarray:
    """F1 of each valid class, 2 hits / (gold + predicted); NaN for a class that does not occur."""
    both = (table.sum(-1) + table.sum(-2))[..., :-1]
    hits = np.diagonal(table, axis1=-2, axis2=-1)[..., :-1]
    return np.divide(2 * hits, both, out=np.full(hits.shape, np.nan), where=both > 0)


def _f1(predictions: Sequence[int], gold: Sequence[int]) -> Statistic:
    # Class 1 stands in the table also where no row has it.
    return _of_counts(opposed(predictions, gold), gold, lambda table: np.nan_to_num(_padded(_class_f1(table))[..., 1]))


def _padded(values: np.ndarray) -> np.ndarray:
    return values if values.shape[-1] > 1 else np.concatenate([values, np.zeros_like(values)], -1)


def _macro_f1(predictions: Sequence[int], gold: Sequence[int]) -> Statistic:
    return _of_counts(predictions, gold, lambda table: np.nanmean(_class_f1(table), -1))


def _matthews(predictions: Sequence[int], gold: Sequence[int]) -> Statistic:
    return _of_counts(predictions, gold, _correlation_of_classes)


def _correlation_of_classes(table: np.ndarray) -> np.ndarray:
    """Matthews correlation of k classes (Gorodkin, 2004); 0 where it is undefined."""
    n, hits = table.sum((-2, -1)), np.trace(table, axis1=-2, axis2=-1)
    true, answered = table.sum(-1), table.sum(-2)
    shared = hits * n - (true * answered).sum(-1)
    scale = np.sqrt((n**2 - (true**2).sum(-1)) * (n**2 - (answered**2).sum(-1)))
    return np.divide(shared, scale, out=np.zeros_like(shared), where=scale > 0)


def _correlation(ranked: bool) -> Callable[[Sequence[float], Sequence[float]], Statistic]:
    def made(predictions: Sequence[float], gold: Sequence[float]) -> Statistic:
        from scipy.stats import rankdata

        ours, theirs = np.asarray(lowered(predictions, gold), float), np.asarray(gold, float)

        def statistic(rows: np.ndarray, axis: int = -1) -> np.ndarray:
            pair = (ours[rows], theirs[rows])
            x, y = (rankdata(values, axis=-1) for values in pair) if ranked else pair
            x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
            scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
            shared = (x * y).sum(-1)
            return np.divide(shared, scale, out=np.zeros_like(shared), where=scale > 0)

        return statistic

    return made


def _rmse(predictions: Sequence[float], gold: Sequence[float]) -> Statistic:
    squares = _mean_of((np.asarray(farthest(predictions, gold)) - np.asarray(gold)) ** 2)
    return lambda rows, axis=-1: np.sqrt(squares(rows))


def _mae(predictions: Sequence[float], gold: Sequence[float]) -> Statistic:
    return _mean_of(np.abs(np.asarray(farthest(predictions, gold)) - np.asarray(gold)))


STATISTICS: dict[str, Callable[[Any, Any], Statistic]] = {
    "accuracy": _hits,
    "f1": _f1,
    "f1a": _f1,
    "macro-f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _correlation(ranked=False),
    "spearman": _correlation(ranked=True),
    "rmse": _rmse,
    "mae": _mae,
    "squad-f1": _by_row("squad-f1"),
    "exact-match": _by_row("exact-match"),
}
