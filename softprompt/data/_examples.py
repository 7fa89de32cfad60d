"""Tokenised rows: ragged in memory, padded a batch at a time, without a Python loop over tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..prompts.batch import SPECIAL, TextBatch

Gold = int | float | list[str]
Indices = Sequence[int] | Tensor


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of whole numbers, one number a token, stored one after another.

    Args:
        flat: all ids, in int32.
        offsets: where each row begins in `flat`, and the end of the last, so r + 1 numbers for r rows.
    """

    flat: Int[Tensor, " n"]
    offsets: Int[Tensor, " r1"]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | np.ndarray]) -> "Ragged":
        """Rows of ids."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        flat = np.concatenate([np.asarray(row, np.int32) for row in rows]) if rows else np.zeros(0, np.int32)
        return cls(torch.from_numpy(flat), torch.from_numpy(offsets))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[Tensor, " r"]:
        """Number of tokens of each row."""
        return self.offsets.diff()

    def row(self, index: int) -> Int[Tensor, " t"]:
        """The ids of one row without padding."""
        index = range(len(self))[index]
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    def select(self, indices: Indices) -> "Ragged":
        """These rows, in this order."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        lengths = self.lengths[chosen]
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        # The place of each token: the start of its row in the source, plus its distance from the start of its row.
        starts = (self.offsets[chosen] - offsets[:-1]).repeat_interleave(lengths)
        return Ragged(self.flat[starts + torch.arange(len(starts))], offsets)

    def shared_with(self, ids: Sequence[int]) -> Int[Tensor, " r"]:
        """How many of `ids` each row begins with."""
        wanted, places = torch.tensor(ids, dtype=self.flat.dtype), torch.arange(len(ids))
        inside = places < self.lengths[:, None]
        at = (self.offsets[:-1, None] + places).masked_fill(~inside, 0)
        return (inside & (self.flat[at] == wanted)).cumprod(1).sum(1) if len(ids) else torch.zeros(len(self)).long()

    def without_first(self, counts: Int[Tensor, " r"]) -> "Ragged":
        """The rows without so many ids at the beginning of each."""
        row = torch.arange(len(self)).repeat_interleave(self.lengths)
        place = torch.arange(len(self.flat)) - self.offsets[:-1][row]
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), (self.lengths - counts).cumsum(0)])
        return Ragged(self.flat[place >= counts[row]], offsets)

    def padded(self, indices: Indices, fill: int) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
        """These rows padded on the right with `fill`, and which positions are theirs."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        starts, lengths = self.offsets[chosen, None], self.lengths[chosen, None]
        positions = torch.arange(int(lengths.max()) if len(chosen) else 0)
        mask = positions < lengths
        ids = torch.full(mask.shape, fill)
        ids[mask] = self.flat[(starts + positions)[mask]].long()
        return ids, mask


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of some rows, one row's after another's.

    Args:
        inputs: token ids of each window.
        owner: for each window the row that it is a part of, ascending.
    """

    inputs: Ragged
    owner: Int[Tensor, " w"]

    def select(self, rows: Int[Tensor, " k"]) -> "Windows":
        """The windows of these rows, which are counted anew."""
        count = int(self.owner.max()) + 1 if len(self.owner) else 0
        starts = torch.searchsorted(self.owner, torch.arange(count + 1))
        chosen = Ragged(torch.arange(len(self.owner), dtype=torch.int32), starts).select(rows)
        return Windows(
            self.inputs.select(chosen.flat), torch.repeat_interleave(torch.arange(len(rows)), chosen.lengths)
        )


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows ready for a backbone, with what counts as right for each.

    Args:
        inputs: token ids of the rendered text, special tokens included.
        targets: token ids of the answers; class ids or numbers for a linear head; None without answers.
        gold: class ids, numbers or lists of accepted texts, for the metrics; empty without answers.
        labels: label words by class id.
        truncated: how many rows lost a part of their text.
        windows: all windows of each row, where a long column is read in windows; `inputs` holds that with the answer.
        parts: of each input token: TEMPLATE (prefix and suffix too), SPECIAL, or its column, counted from 1 as the
            task names them; UNKNOWN where the tokenizer tells no offsets. None where nobody asks.
    """

    inputs: Ragged
    targets: Ragged | Int[Tensor, " r"] | Float[Tensor, " r"] | None
    gold: list[Gold]
    labels: tuple[str, ...] = ()
    truncated: int = 0
    parts: Ragged | None = None
    windows: "Windows | None" = None

    @classmethod
    def gathered(cls, rows: Iterable[tuple["Examples", int]]) -> "Examples":
        """Single rows of several sets as they are read, one after another; without answers and windows."""
        chosen = list(rows)
        inputs = Ragged.of([examples.inputs.row(row).numpy() for examples, row in chosen])
        parts = [examples.parts.row(row).numpy() for examples, row in chosen if examples.parts is not None]
        return cls(inputs, None, [], parts=Ragged.of(parts) if len(parts) == len(chosen) else None)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def lengths(self) -> Int[Tensor, " r"]:
        """Number of input tokens of each row."""
        return self.inputs.lengths

    @property
    def answer_lengths(self) -> Int[Tensor, " r"]:
        """Number of tokens of each row's answer; 1 for a class or a number."""
        return self.targets.lengths if isinstance(self.targets, Ragged) else torch.ones_like(self.lengths)

    def select(self, indices: Indices) -> "Examples":
        """These rows, in this order; `truncated` stays the count over all of them."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        targets = self.targets
        if isinstance(targets, Ragged):
            targets = targets.select(chosen)
        elif targets is not None:
            targets = targets[chosen]
        gold = [self.gold[i] for i in chosen.tolist()] if self.gold else []
        parts = None if self.parts is None else self.parts.select(chosen)
        windows = None if self.windows is None else self.windows.select(chosen)
        return Examples(self.inputs.select(chosen), targets, gold, self.labels, self.truncated, parts, windows)

    def batch(self, indices: Indices, owner: int | Int[Tensor, " b"], pad_id: int) -> TextBatch:
        """Rows for one pass, padded on the right; targets are padded with -100.

        Args:
            indices: which rows.
            owner: the prompt that answers them, one for all or one a row.
            pad_id: the tokenizer's padding token.
        """
        chosen = torch.as_tensor(indices, dtype=torch.long)
        ids, mask = self.inputs.padded(chosen, pad_id)
        owners = torch.full((len(chosen),), owner) if isinstance(owner, int) else owner
        if isinstance(self.targets, Ragged):
            targets, _ = self.targets.padded(chosen, -100)
        else:
            targets = None if self.targets is None else self.targets[chosen, None]
        parts = None if self.parts is None else self.parts.padded(chosen, SPECIAL)[0]
        classes = torch.tensor([self.gold[row] for row in chosen.tolist()]) if self.labels and self.gold else None
        return TextBatch(ids, mask, owners, targets, parts, classes=classes)


def shared_ids(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many ids two sequences have in common at their beginnings."""
    pairs = zip(a, b, strict=False)
    return next((place for place, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
