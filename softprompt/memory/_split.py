"""Rows of a pass in parts whose rows are of similar length, so that little is padded and no part is too large."""

from collections.abc import Sequence

import numpy as np

# A split changes how sums round, so it has to save more than this share of the tokens.
WORTH = 0.05


def least_padded(
    lengths: Sequence[int], each: float, *, rows: int | None = None, tokens: int | None = None
) -> list[list[int]]:
    """The rows in parts of least sum over parts of (rows x longest row + each), the longest rows first.

    Over rows sorted by length the best parts are runs, and the best of the first j rows is

        f(j) = min_i f(i) + (j - i) x length(i) + each,   i from the rows that a part that ends at j may begin at.

    All rows in their order where one part is allowed and others would save less than 5 %.

    Args:
        lengths: of each row, prompt included.
        each: what a part costs beside its tokens, in tokens.
        rows: most rows of a part; None is no bound.
        tokens: most rows x longest row of a part; None is no bound. A single row above it stands alone.
    """
    b = len(lengths)
    order = sorted(range(b), key=lambda row: -lengths[row])
    longest = np.array([lengths[row] for row in order])
    best, begins = np.zeros(b + 1), np.zeros(b + 1, int)
    for end in range(1, b + 1):
        starts = np.arange(max(0, end - (rows or b)), end)
        areas = (end - starts) * longest[starts]
        costs = best[starts] + areas + each
        if tokens is not None:
            costs[(areas > tokens) & (starts < end - 1)] = np.inf
        chosen = int(costs.argmin())
        best[end], begins[end] = costs[chosen], starts[chosen]
    whole = b * int(longest[0])
    may_be_one = (rows is None or b <= rows) and (tokens is None or whole <= tokens or b == 1)
    if may_be_one and best[b] > (1 - WORTH) * (whole + each):
        return [list(range(b))]
    parts, end = [], b
    while end:
        parts.append(order[begins[end] : end])
        end = int(begins[end])
    return parts[::-1]
