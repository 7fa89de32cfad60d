"""The order of training rows: a permutation per epoch that depends on (seed, epoch), in batches of similar length."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import BadInput


def epoch_batches(
    lengths: Int[Tensor, " r"],
    rows: Sequence[int],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    bucket: int = 8,
) -> list[list[int]]:
    """Return the batches of one epoch, which hold every row exactly once. The last batch may be smaller.

    The rows are permuted. Windows of `bucket * batch_size` rows are then sorted by length and cut into batches, and
    the batches of a window are shuffled. A batch therefore needs little padding, and short rows do not come first.

    Args:
        lengths: number of tokens of every example.
        rows: indices of the examples that take part.
        batch_size: rows per batch.
        seed: seed of the data order.
        epoch: number of the epoch, from 0.
        bucket: batches per window; 1 keeps the permutation.

    Raises:
        BadInput: there are no rows.
    """
    if not len(rows):
        raise BadInput("no rows to make batches of")
    generator = _generator(seed, epoch)
    chosen = torch.as_tensor(rows)[torch.randperm(len(rows), generator=generator)]
    batches: list[list[int]] = []
    for window in chosen.split(bucket * batch_size):
        if bucket > 1:
            window = window[lengths[window].argsort(stable=True)]
        of_window = window.split(batch_size)
        batches += [of_window[i].tolist() for i in torch.randperm(len(of_window), generator=generator).tolist()]
    return batches


def stream(
    lengths: Int[Tensor, " r"],
    rows: Sequence[int],
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    bucket: int = 8,
) -> Iterator[list[int]]:
    """Yield batches without end, epoch after epoch, from batch number `start` on.

    A stream that starts later yields the same batches as an uninterrupted one. Every epoch has the same number of
    batches, so earlier epochs are skipped.
    """
    epoch, skipped = divmod(start, max(1, -(-len(rows) // batch_size)))
    while True:
        yield from epoch_batches(lengths, rows, batch_size, seed=seed, epoch=epoch, bucket=bucket)[skipped:]
        epoch, skipped = epoch + 1, 0


def _generator(seed: int, epoch: int) -> torch.Generator:
    # The hash keeps seeds apart: epoch 1 of seed 0 and epoch 0 of seed 1 differ.
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
