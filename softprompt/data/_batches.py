"""The order of rows: a permutation an epoch, seeded by (seed, epoch) only, in batches of similar length."""

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
    tokens_per_batch: int | None = None,
) -> list[list[int]]:
    """Every row exactly once, in batches; the last may be short.

    Rows are permuted. Within windows of `bucket * batch_size` rows they are sorted by length, cut into batches,
    and the batches shuffled, so that a batch needs little padding and short batches do not come first.

    Args:
        lengths: tokens of all examples.
        rows: which of them take part.
        batch_size: rows in a batch.
        seed: of the data order.
        epoch: from 0.
        bucket: batches in a window; 1 keeps the permutation as it is.
        tokens_per_batch: upper bound on rows x longest; a single row above it stands alone. None is no bound.

    Raises:
        BadInput: no rows.
    """
    if not len(rows):
        raise BadInput("no rows to make batches of")
    generator = _generator(seed, epoch)
    chosen = torch.as_tensor(rows)[torch.randperm(len(rows), generator=generator)]
    batches: list[list[int]] = []
    for window in chosen.split(bucket * batch_size):
        if bucket > 1:
            window = window[lengths[window].argsort(stable=True)]
        found = cut(window.tolist(), lengths[window].tolist(), batch_size, tokens_per_batch)
        batches += [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]
    return batches


def stream(
    lengths: Int[Tensor, " r"],
    rows: Sequence[int],
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    bucket: int = 8,
    tokens_per_batch: int | None = None,
) -> Iterator[list[int]]:
    """Batches without end, epoch after epoch, from batch number `start` on.

    A stream started late goes on as one that was never interrupted. Without a token bound every epoch has as many
    batches, so the earlier ones are not computed; with it they are, to be counted.
    """
    epoch, skipped = (0, start) if tokens_per_batch else divmod(start, max(1, -(-len(rows) // batch_size)))
    while True:
        batches = epoch_batches(
            lengths,
            rows,
            batch_size,
            seed=seed,
            epoch=epoch,
            bucket=bucket,
            tokens_per_batch=tokens_per_batch,
        )
        yield from batches[skipped:]
        skipped = max(0, skipped - len(batches))
        epoch += 1


def _generator(seed: int, epoch: int) -> torch.Generator:
    # Hashed, so that epoch 1 of seed 0 is not epoch 0 of seed 1.
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def cut(rows: Sequence[int], lengths: Sequence[int], most: int, tokens: int | None) -> list[list[int]]:
    """The rows in their order, in batches of at most `most` rows and, where bounded, rows x longest `tokens`.

    A single row above the bound stands alone.
    """
    batches: list[list[int]] = []
    longest = 0
    for row, length in zip(rows, lengths, strict=True):
        longest = max(longest, length)
        full = not batches or len(batches[-1]) == most
        if full or (tokens is not None and (len(batches[-1]) + 1) * longest > tokens):
            batches.append([])
            longest = length
        batches[-1].append(row)
    return batches
