"""Truncation of rows: only columns that may be shortened lose their ends, the longest column first."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int

Span = tuple[int, int]


def shares(lengths: Sequence[int], budget: int) -> list[int] | None:
    """What is kept of each column when the longest loses one at a time until all fit; None if none suffices.

    That is min(length, level) for the highest level that fits, and one more for the first of those cut.
    """
    if budget < 0:
        return None
    level, left = 0, budget
    for rank, length in enumerate(sorted(lengths)):
        level = min(length, left // (len(lengths) - rank))
        if level < length:
            break
        left -= length
    kept = [min(length, level) for length in lengths]
    spare = budget - sum(kept)
    for index, length in enumerate(lengths):
        if spare > 0 and kept[index] < length:
            kept[index] += 1
            spare -= 1
    return kept


def tokens_within(text: str, offsets: Sequence[Span], span: Span) -> Int[np.ndarray, " k"]:
    """Places of the tokens of a column: those within its span, but for one blank before it.

    Many tokenizers put that blank into the word that follows. A token shared with the template is the template's.
    """
    starts, ends = np.asarray(offsets).reshape(-1, 2).T
    start, end = span
    first = start - 1 if start > 0 and text[start - 1].isspace() else start
    return np.flatnonzero((starts >= first) & (ends > start) & (ends <= end))


def kept_tokens(text: str, offsets: Sequence[Span], spans: Sequence[Span], limit: int) -> Bool[np.ndarray, " t"] | None:
    """Which tokens stay when a row is cut to `limit` tokens; None if its columns cannot lose enough.

    Args:
        text: the rendered row.
        offsets: the characters that each token stands for; none for special tokens.
        spans: the characters of each column that may be cut.
        limit: tokens allowed, special tokens included.
    """
    members = [tokens_within(text, offsets, span) for span in spans]
    lengths = [len(member) for member in members]
    quotas = shares(lengths, limit - (len(offsets) - sum(lengths)))
    if quotas is None:
        return None
    keep = np.ones(len(offsets), bool)
    for member, quota in zip(members, quotas, strict=True):
        keep[member[quota:]] = False
    return keep


def shortened_text(text: str, spans: Sequence[Span], fits: Callable[[str], bool]) -> str | None:
    """The row with its columns cut to the most characters that `fits`, for tokenizers without offsets."""
    lengths = [end - start for start, end in spans]
    low, high = 0, sum(lengths)
    if not fits(_cut(text, spans, lengths, 0)):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(_cut(text, spans, lengths, middle)) else (low, middle - 1)
    return _cut(text, spans, lengths, low)


def _cut(text: str, spans: Sequence[Span], lengths: Sequence[int], budget: int) -> str:
    quotas = shares(lengths, budget) or []
    # The last span is cut first, so that earlier spans keep their places.
    for (start, end), quota in sorted(zip(spans, quotas, strict=True), reverse=True):
        text = text[: start + quota] + text[end:]
    return text
