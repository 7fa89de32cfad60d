"""How rows of many lengths lie one behind the other: in blocks of equal width, with next to no padding.

A row of length L costs its positions in every linear layer, and a call of the attention. Rows of one length share a
call for nothing; a shorter row that joins a block is padded to the block's width. It does while the padding costs less
than a call of its own: for wide layers hardly ever, for the tiny layers of a lab backbone nearly always.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..join import text_first

# Multiply-adds in the time that a call of one layer's attention takes beside its arithmetic, there and back.
CALL = {"cpu": 4e6, "cuda": 5e8}


@final
@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows that are computed as one rectangle.

    Args:
        first: number of its first row, in the order of the blocks.
        count: rows.
        start: number of its first position.
        width: positions of each row, c x w in all.
        mask: which of them count; None where all do.
    """

    first: int
    count: int
    start: int
    width: int
    mask: Bool[Tensor, "c w"] | None = None

    @property
    def rows(self) -> slice:
        """Its rows among all rows."""
        return slice(self.first, self.first + self.count)

    @property
    def positions(self) -> slice:
        """Its positions among all positions."""
        return slice(self.start, self.start + self.count * self.width)


@final
@dataclass(frozen=True, kw_only=True)
class Packing:
    """Where each position of a padded batch lies among r packed ones.

    Args:
        blocks: one behind the other, longest rows first.
        order: row of the batch by number of the row in the blocks.
        rows: row of the batch of each packed position.
        columns: its column; that of a pad where a row is shorter than its block.
        shape: rows and columns of the batch.
        real: which positions are no pads; None where none is.
    """

    blocks: tuple[Block, ...]
    order: Int[Tensor, " b"]
    rows: Int[Tensor, " r"]
    columns: Int[Tensor, " r"]
    shape: tuple[int, int]
    real: Bool[Tensor, " r"] | None

    def unpacked(self, states: Tensor) -> Tensor:
        """States [r, d] in the batch's own layout [b, s, d], zeros where nothing is."""
        rows, columns = self.rows, self.columns
        if self.real is not None:
            states, rows, columns = states[self.real], rows[self.real], columns[self.real]
        empty = states.new_zeros(*self.shape, states.shape[1])
        return empty.index_put((rows, columns), states)


def widths_of(lengths: Sequence[int], saving: float) -> list[int]:
    """The width of each row's block, for lengths in descending order.

    A block is closed where padding the next row to its width would cost more positions than `saving`.
    """
    widths: list[int] = []
    for length in lengths:
        open_width = widths[-1] if widths else length
        widths.append(open_width if open_width - length <= saving else length)
    return widths


def pack(mask: Bool[Tensor, "b s"], saving: float) -> Packing | None:
    """The unmasked positions of each row in their order, in blocks; None where a row has no position at all.

    Args:
        mask: which positions count, the others anywhere.
        saving: positions of padding that cost as much as a block.
    """
    lengths = mask.sum(1)
    # The one time that the host waits for the device: how long the rows are.
    descending, order = lengths.sort(descending=True, stable=True)
    known: list[int] = descending.tolist()
    if not known or known[-1] == 0:
        return None
    widths = widths_of(known, saving)
    left = text_first(mask)[order]
    blocks, rows, columns, first, start = [], [], [], 0, 0
    while first < len(known):
        count, width = widths.count(widths[first]), widths[first]
        last = first + count
        padded = known[last - 1] < width
        own = torch.arange(width, device=mask.device) < descending[first:last, None] if padded else None
        blocks.append(Block(first=first, count=count, start=start, width=width, mask=own))
        rows.append(order[first:last, None].expand(-1, width).flatten())
        columns.append(left[first:last, :width].flatten())
        first, start = last, start + count * width
    places = torch.cat(rows), torch.cat(columns)
    return Packing(
        blocks=tuple(blocks),
        order=order,
        rows=places[0],
        columns=places[1],
        shape=(mask.shape[0], mask.shape[1]),
        real=mask[places] if any(block.mask is not None for block in blocks) else None,
    )
