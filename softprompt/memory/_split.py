"""Splits rows into passes of similar length, so that there is little padding and no pass is too large."""

from collections.abc import Sequence

import numpy as np

# A split changes how sums are rounded, so it has to save more than this share of the tokens.
WORTH = 0.05


def least_padded(
    lengths: Sequence[int], each: float, *, rows: int | None = None, tokens: int | None = None
) -> list[list[int]]:
    """Split the rows into parts with the least sum of (rows x longest row + each), the longest rows first.

    If the rows are sorted by length, the rows of a best part are neighbours. The least sum for the first j rows is

        f(j) = min_i f(i) + (j - i) x length(i) + each,   over the rows i at which a part that ends at j may begin.

    All rows stay together in their order if one part is allowed and a split would save less than 5 %.

    Args:
        lengths: length of each row, prompt included.
        each: fixed cost of a part, in tokens.
        rows: largest number of rows of a part; None sets no bound.
        tokens: largest rows x longest row of a part; None sets no bound. A single longer row is a part of its own.

    Returns:
        The indices of the rows of each part.
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


def cut(rows: Sequence[int], lengths: Sequence[int], most: int, tokens: int | None) -> list[list[int]]:
    """Cut the rows, in their order, into passes of at most `most` rows and at most `tokens` = rows x longest row.

    A single row above the bound is a pass of its own.
    """
    passes: list[list[int]] = []
    longest = 0
    for row, length in zip(rows, lengths, strict=True):
        longest = max(longest, length)
        full = not passes or len(passes[-1]) == most
        if full or (tokens is not None and (len(passes[-1]) + 1) * longest > tokens):
            passes.append([])
            longest = length
        passes[-1].append(row)
    return passes
