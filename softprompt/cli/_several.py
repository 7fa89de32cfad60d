"""Several seeds as one line: how good, how spread, how often stuck."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..metrics import is_stuck

if TYPE_CHECKING:
    from ..training import Result


def summary(results: Sequence["Result"], reference: float = 0.0) -> list[dict[str, Any]]:
    """One row for each method, units and learning rate, in the order of the run: its test scores over seeds.

    The standard deviation is of the sample (n - 1). Stuck is not half of the way from always answering the most
    frequent class (0 for free text) to the best prompt of these results, or to `reference` if that is better. A prompt
    that was dropped before its first evaluation is stuck and in no mean.
    """
    scores = [score for result in results if (score := _score(result)) is not None]
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        groups.setdefault((result.method, result.units, result.lr), []).append(result)
    return [_row(group, max([reference, *scores])) for group in groups.values()]


def _row(group: Sequence["Result"], ceiling: float) -> dict[str, Any]:
    first = group[0]
    scores = [score for result in group if (score := _score(result)) is not None]
    norms = [result.token_norms for result in group if result.token_norms is not None]
    return {
        "method": first.method,
        "units": first.units,
        "lr": first.lr,
        "prompts": len(group),
        "test mean": statistics.mean(scores) if scores else None,
        "deviation": statistics.stdev(scores) if len(scores) > 1 else None,
        "worst": min(scores, default=None),
        "stuck": sum(_is_stuck(result, ceiling) for result in group) / len(group),
        "token norms (band 1-10)": statistics.median(norms) if norms else None,
        "stored": first.stored,
    }


def _score(result: "Result") -> float | None:
    return result.metrics.get("test", {}).get("score")


def _is_stuck(result: "Result", ceiling: float) -> bool:
    score = _score(result)
    return score is None or is_stuck(score, result.majority or 0.0, ceiling)
