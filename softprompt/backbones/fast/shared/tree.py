"""What a decoder reads after a text to score several answers: a tree, in which common beginnings stand once."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int
from torch import Tensor

# The last number of what stands before all answers: every token of them goes on from it.
ALL = np.iinfo(np.int64).max
# The token id of padding.
NONE = -100


@final
@dataclass(frozen=True)
class AnswerTree:
    """Several answers. Their tokens are numbered from 1, so that all that goes on from a token follows it at once.

    Args:
        tokens: the token id of each number.
        depths: how many tokens of its answers stand before it.
        lasts: the largest number that goes on from it; its own where none does.
        paths: for each answer the numbers of its tokens.
    """

    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    lasts: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]


@functools.lru_cache(maxsize=64)
def tree_of(answers: tuple[tuple[int, ...], ...]) -> AnswerTree:
    """Return the tree of answers, given the token ids of each."""
    beginnings = [[answer[:n] for n in range(1, len(answer) + 1)] for answer in answers]
    found = {beginning: place for place, beginning in enumerate(dict.fromkeys(b for each in beginnings for b in each))}
    ways = {beginning: [found[beginning[:n]] for n in range(1, len(beginning) + 1)] for beginning in found}
    ordered = sorted(ways, key=ways.__getitem__)
    numbers = {beginning: number for number, beginning in enumerate(ordered, 1)}
    lasts = {b[:n]: numbers[b] for b in ordered for n in range(1, len(b) + 1)}
    return AnswerTree(
        tokens=tuple(beginning[-1] for beginning in ordered),
        depths=tuple(len(beginning) - 1 for beginning in ordered),
        lasts=tuple(lasts[beginning] for beginning in ordered),
        paths=tuple(tuple(numbers[beginning] for beginning in each) for each in beginnings),
    )


@final
@dataclass(frozen=True)
class Behind:
    """What each of b rows reads after its text, on the host: up to n tokens, in the order of their numbers.

    Args:
        tokens: token ids; `NONE` is padding, and after all others.
        depths: how many tokens stand between the text and each.
        lasts: the largest number of those that see it; the first token has number 1.
    """

    tokens: Int[np.ndarray, "b n"]
    depths: Int[np.ndarray, "b n"]
    lasts: Int[np.ndarray, "b n"]

    @classmethod
    def chains(cls, tokens: Int[Tensor, "b n"]) -> "Behind":
        """One answer a row, padded after its tokens."""
        ids = tokens.cpu().numpy()
        return cls(ids, np.broadcast_to(np.arange(ids.shape[1]), ids.shape), np.full(ids.shape, ALL))

    @classmethod
    def trees(cls, trees: Sequence[AnswerTree], which: Int[Tensor, " b"]) -> "Behind":
        """The tree of each row, by its number."""
        most = max((len(tree.tokens) for tree in trees), default=0)

        def padded(values: Sequence[Sequence[int]]) -> np.ndarray:
            rows = [[*of_tree, *[NONE] * (most - len(of_tree))] for of_tree in values]
            return np.array(rows, dtype=np.int64).reshape(len(trees), most)[which.cpu().numpy()]

        return cls(*(padded([getattr(tree, name) for tree in trees]) for name in ("tokens", "depths", "lasts")))

    @classmethod
    def nothing(cls, rows: int) -> "Behind":
        """No answers."""
        return cls(*(np.zeros((rows, 0), dtype=np.int64) for _ in range(3)))
