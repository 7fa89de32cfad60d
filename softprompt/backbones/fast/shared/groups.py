"""Rows of similar length whose attention is one call, and what each of their positions may see."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..blocks import widths_of

# Padded positions of a row that cost as much as another call of the attention.
SAVING = {"cpu": 6.0, "cuda": 256.0}
# Pairs of query and key of one call: more do not fit into the cache of a core, or take too much memory.
PAIRS = {"cpu": 1 << 17, "cuda": 1 << 24}
# The last number that sees a padded key: none does.
PAD = -1


@final
@dataclass(frozen=True)
class Spans:
    """Sequences that lie one after another: where each begins, and its length."""

    starts: np.ndarray
    lengths: np.ndarray


@final
@dataclass(frozen=True, kw_only=True)
class Group:
    """The attention of c rows in one call: at most q queries a row, and keys of u prefixes and of the rows.

    Args:
        queries: number of each query; a padded one repeats a query of the same row.
        answered: which of the c x q queries are no padding, and the numbers of these.
        prefixes: places of the keys of each prefix; a padded one repeats a key that its rows have anyway.
        owners: which prefix each row has.
        keys: places of the keys of each row, prefix first; a padded own one repeats a key of the row or of its prefix.
        added: which of the c x w own keys are no padding, and the places of these.
        query_marks: position ids of the queries, and their numbers among what is read after the text (0 before it).
        key_marks: the same of the keys, prefix first, and the largest number that sees each.
    """

    queries: Int[Tensor, "c q"]
    answered: tuple[Tensor, Tensor]
    prefixes: Int[Tensor, "u n"]
    owners: Int[Tensor, " c"]
    keys: Int[Tensor, "c m"]
    added: tuple[Tensor, Tensor]
    query_marks: tuple[Tensor, Tensor]
    key_marks: tuple[Tensor, Tensor, Tensor]

    def to(self, device: torch.device) -> "Group":
        """Return the group with its indices on the device."""

        def moved(value: object) -> object:
            return value.to(device) if isinstance(value, Tensor) else tuple(map(moved, value))  # pyright: ignore

        return Group(**{field.name: moved(getattr(self, field.name)) for field in dataclasses.fields(self)})  # pyright: ignore

    def visible(self, rule: Callable[..., Tensor]) -> Bool[Tensor, "c 1 q m"]:
        """Return which keys each query sees.

        Args:
            rule: of transformers, over position ids: whether a query sees a key (causal, a sliding window, chunks).
        """
        at, number = (marks[:, :, None] for marks in self.query_marks)
        key_at, key_number, key_last = (marks[:, None, :] for marks in self.key_marks)
        zero = at.new_zeros(())
        # What goes on from a token of an answer has the numbers from its own to its last.
        return (rule(zero, zero, at, key_at) & (key_number <= number) & (number <= key_last))[:, None]


def grouped(
    queries: Spans,
    keys: Spans,
    prefixes: Spans | None,
    owner: np.ndarray | None,
    query_marks: tuple[np.ndarray, np.ndarray],
    key_marks: tuple[np.ndarray, np.ndarray, np.ndarray],
    device: str,
) -> list[Group]:
    """Divide rows into groups of similar length.

    Args:
        queries: each row's queries.
        keys: each row's own keys.
        prefixes: the prefixes before the rows; None if nothing stands before them.
        owner: the prefix of each row.
        query_marks: position ids and numbers of all queries.
        key_marks: position ids, numbers and last numbers of all keys.
        device: "cpu" or "cuda".
    """
    rows = np.argsort(-keys.lengths, kind="stable")
    rows = rows[queries.lengths[rows] > 0]
    widths = widths_of(keys.lengths[rows].tolist(), SAVING.get(device, SAVING["cuda"]))
    most = PAIRS.get(device, PAIRS["cuda"])
    groups, first = [], 0
    while first < len(rows):
        count = widths.count(widths[first])
        chosen = rows[first : first + count]
        before = 0 if prefixes is None or owner is None else int(prefixes.lengths[owner[chosen]].max())
        pairs = int(queries.lengths[chosen].max()) * (before + widths[first])
        each = max(1, most // max(pairs, 1))
        groups += [
            _group(chosen[i : i + each], queries, keys, prefixes, owner, query_marks, key_marks)
            for i in range(0, count, each)
        ]
        first += count
    return groups


def _group(
    rows: np.ndarray,
    queries: Spans,
    keys: Spans,
    prefixes: Spans | None,
    owner: np.ndarray | None,
    query_marks: tuple[np.ndarray, np.ndarray],
    key_marks: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Group:
    if prefixes is None or owner is None:
        prefixes, owner = Spans(np.zeros(1, int), np.zeros(1, int)), np.zeros(len(keys.starts), int)
    prompts, owners = np.unique(owner[rows], return_inverse=True)
    before, is_before = _places(prefixes.starts[prompts], prefixes.lengths[prompts])
    own, is_own = _places(keys.starts[rows], keys.lengths[rows])
    asked, is_asked = _places(queries.starts[rows], queries.lengths[rows])
    # A row without keys of its own pads with one of its prefix, a prompt without a prefix with one of its rows: not a
    # number in one prompt must not reach another.
    instead = np.where(keys.lengths[rows] > 0, keys.starts[rows], prefixes.starts[owner[rows]])
    own = np.where(is_own, own, instead[:, None])
    first_rows = keys.starts[rows][[int(np.argmax(owners == number)) for number in range(len(prompts))]]
    before = np.where(
        is_before, before, np.where(prefixes.lengths[prompts] > 0, prefixes.starts[prompts], first_rows)[:, None]
    )
    both = np.concatenate([before[owners], own], 1)
    is_key = np.concatenate([is_before[owners], is_own], 1)
    asked = np.where(is_asked, asked, queries.starts[rows][:, None])

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))

    def real(flags: np.ndarray, places: np.ndarray) -> tuple[Tensor, Tensor]:
        chosen = np.flatnonzero(flags)
        return tensor(chosen), tensor(places.flatten()[chosen])

    return Group(
        queries=tensor(asked),
        answered=real(is_asked, asked),
        prefixes=tensor(before),
        owners=tensor(owners),
        keys=tensor(both),
        added=real(is_own, own),
        query_marks=(tensor(query_marks[0][asked]), tensor(query_marks[1][asked])),
        key_marks=(
            tensor(key_marks[0][both]),
            tensor(key_marks[1][both]),
            tensor(np.where(is_key, key_marks[2][both], PAD)),
        ),
    )


def _places(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of sequences side by side, and which are within their sequence."""
    columns = np.arange(int(lengths.max(initial=0)))
    return starts[:, None] + columns, columns < lengths[:, None]
