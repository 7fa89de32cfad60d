"""Keys and values of compiled prefixes: how passes read them from a cache, and how one pass finds them."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ....prompts.batch import TextBatch
from ....prompts.compiled import CompiledPrefix


def held_cache(compiled: Sequence[CompiledPrefix | None], held: Sequence[int], like: Tensor) -> dict[str, Any]:
    """Return the argument of a model that has the compiled positions read; nothing where none are.

    Each layer puts the keys and values of the sequence after those of the cache.

    Args:
        compiled: of each prompt.
        held: of each prompt the number of positions that are read.
        like: has the device and the precision of the pass.
    """
    read = [(prefix, n) for prefix, n in zip(compiled, held, strict=False) if prefix is not None and n]
    if not read:
        return {}
    from transformers import DynamicCache

    def parts(layer: int, which: int) -> list[Tensor]:
        return [prefix.layers[layer][which][:, :n].to(like) for prefix, n in read]

    cache: Any = DynamicCache()
    cache.layers = [_held_layer()(parts(layer, 0), parts(layer, 1)) for layer in range(len(read[0][0].layers))]
    return {"past_key_values": cache}


@functools.cache
def _held_layer() -> type:
    """The class of a layer of a cache that is read once; a function, because it imports transformers."""
    from transformers.cache_utils import DynamicLayer

    class HeldLayer(DynamicLayer):
        """Keys and values in parts, which are copied once, after one another and before those of the sequence.

        They are not kept together, so that a pass holds the copy of one layer alone.
        """

        def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]):
            super().__init__()
            self.parts = keys, values
            self.is_initialized = True

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            keys, values = (
                torch.cat([*parts, new[0]], 1)[None]
                for parts, new in zip(self.parts, (key_states, value_states), strict=True)
            )
            return keys, values

        def get_seq_length(self) -> int:
            return sum(part.shape[1] for part in self.parts[0])

    return HeldLayer


def rows_of_tokens(rows: Sequence[Sequence[int]], device: torch.device) -> TextBatch:
    """Return rows of these tokens, one for each prompt, padded on the right; rows may be empty."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long, device=device)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.long, device=device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    return TextBatch(ids, mask, torch.arange(len(rows), device=device))


def places_of(row: int, *laid_out: tuple[Tensor, Tensor, Tensor]) -> Int[Tensor, " n"]:
    """Return the places of a prompt and its tokens, in their order: those parts of a layout that are of this row."""
    return torch.cat([places[rows == row] for places, rows, _ in laid_out])


def at_places(layers: Sequence[Any], places: Int[Tensor, " n"]) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return keys and values of each layer at some positions of the only row, as copies."""
    return tuple((keys[0].index_select(1, places), values[0].index_select(1, places)) for keys, values in layers)
