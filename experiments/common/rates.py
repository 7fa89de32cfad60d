"""The rate search of all studies: a first grid, which grows until its best rate has a worse neighbour on both sides."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# The worth of a rate: any values that can be compared, such as a mean score, or a score and a loss.
Worth = Mapping[float, Any]


def best_rate(worth: Worth) -> float:
    """The rate that is worth most; of equals the one in their middle, so that a plateau is not taken at its edge."""
    top = max(worth.values())
    equals = sorted(rate for rate, value in worth.items() if value == top)
    return equals[len(equals) // 2]


def is_at_edge(worth: Worth) -> bool:
    """Whether the best rate is the lowest or the highest that was tried."""
    return best_rate(worth) in (min(worth), max(worth))


def rates_to_try(worth: Worth, first: Sequence[float], beyond: Callable[[float, int], float | None]) -> list[float]:
    """The rates that are still to be tried; none once the search is over.

    Args:
        worth: of the rates that were tried.
        first: the grid to begin with.
        beyond: the next rate above (1) or below (-1) an edge; None ends the search there.
    """
    left = [rate for rate in first if rate not in worth]
    if left:
        return left
    best = best_rate(worth)
    further = beyond(best, 1 if best == max(worth) else -1) if is_at_edge(worth) else None
    return [] if further is None else [further]


def neighbour(rate: float, steps: int) -> float:
    """The rate so many steps up (or down, below 0) the row ..., 0.1, 0.3, 1, 3, 10, ...

    >>> neighbour(0.3, 1), neighbour(0.1, -1)
    (1.0, 0.03)
    """
    place = 2 * math.floor(math.log10(rate) + 1e-9)
    place += rate > 1.5 * 10.0 ** (place // 2)
    place += steps
    # The number is read from its digits, because 3 * 10**-1 is not 0.3.
    return float(f"{3 if place % 2 else 1}e{place // 2}")
