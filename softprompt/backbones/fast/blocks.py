"""The layout of packed rows: rows of many lengths lie one after another, in blocks of equal width with little padding.

A row of length L costs L positions in every linear layer, and one call of the attention. Rows of equal length share a
call at no extra cost. A shorter row that joins a block is padded to the width of the block. It joins if that padding
costs less than a separate call, which is rare for wide layers and common for the tiny layers of a lab backbone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..join import text_first

# Overhead of one call of a layer's attention, forward and backward, as the multiply-adds that take the same time.
CALL = {"cpu": 4e6, "cuda": 5e8}


@final
@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows that are computed as one rectangle of c x w positions.

    Args:
        first: index of the block's first row, in the order of the blocks.
        count: number c of rows.
        start: index of the block's first position.
        width: number w of positions of each row.
        mask: True where a position is no padding; None if no row of the block is padded.
    """

    first: int
    count: int
    start: int
    width: int
    mask: Bool[Tensor, "c w"] | None = None

    @property
    def rows(self) -> slice:
        """The block's rows among all rows."""
        return slice(self.first, self.first + self.count)

    @property
    def positions(self) -> slice:
        """The block's positions among all packed positions."""
        return slice(self.start, self.start + self.count * self.width)


@final
@dataclass(frozen=True, kw_only=True)
class Packing:
    """The map between the positions of a padded batch and r packed positions.

    Args:
        blocks: the blocks in their order, longest rows first.
        order: for each row of the blocks, its row in the batch.
        rows: for each packed position, its row in the batch.
        columns: for each packed position, its column in the batch; a padded column where a row is shorter than its
            block.
        shape: rows and columns of the batch.
        real: True where a packed position is no padding; None if there is no padding.
    """

    blocks: tuple[Block, ...]
    order: Int[Tensor, " b"]
    rows: Int[Tensor, " r"]
    columns: Int[Tensor, " r"]
    shape: tuple[int, int]
    real: Bool[Tensor, " r"] | None

    def unpacked(self, states: Tensor) -> Tensor:
        """Return states [r, d] in the layout [b, s, d] of the batch, with zeros at padding."""
        rows, columns = self.rows, self.columns
        if self.real is not None:
            states, rows, columns = states[self.real], rows[self.real], columns[self.real]
        empty = states.new_zeros(*self.shape, states.shape[1])
        return empty.index_put((rows, columns), states)


def widths_of(lengths: Sequence[int], saving: float) -> list[int]:
    """Return the width of each row's block, for lengths in descending order.

    A block ends where the next row would need more than `saving` positions of padding.
    """
    widths: list[int] = []
    for length in lengths:
        open_width = widths[-1] if widths else length
        widths.append(open_width if open_width - length <= saving else length)
    return widths


def pack(mask: Bool[Tensor, "b s"], saving: float) -> Packing | None:
    """Pack the unmasked positions of each row into blocks. The result is None if a row has no unmasked position.

    Args:
        mask: True where a position is no padding; padding may be anywhere in a row.
        saving: number of padded positions that cost as much as a separate block.
    """
    # This is the only time that the host waits for the device: it needs the lengths of the rows.
    descending, order = mask.sum(1).sort(descending=True, stable=True)
    lengths: list[int] = descending.tolist()
    if not lengths or lengths[-1] == 0:
        return None
    widths = widths_of(lengths, saving)
    text_columns = text_first(mask)[order]
    blocks, rows, columns, first, start = [], [], [], 0, 0
    while first < len(lengths):
        count, width = widths.count(widths[first]), widths[first]
        last = first + count
        is_padded = lengths[last - 1] < width
        block_mask = torch.arange(width, device=mask.device) < descending[first:last, None] if is_padded else None
        blocks.append(Block(first=first, count=count, start=start, width=width, mask=block_mask))
        rows.append(order[first:last, None].expand(-1, width).flatten())
        columns.append(text_columns[first:last, :width].flatten())
        first, start = last, start + count * width
    all_rows, all_columns = torch.cat(rows), torch.cat(columns)
    return Packing(
        blocks=tuple(blocks),
        order=order,
        rows=all_rows,
        columns=all_columns,
        shape=(mask.shape[0], mask.shape[1]),
        real=mask[all_rows, all_columns] if any(block.mask is not None for block in blocks) else None,
    )
