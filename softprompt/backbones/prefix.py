"""Keys and values that stand in a cache before everything that a decoder attends to, as in prefix tuning."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UnsupportedModel

# The keys and the values of one layer.
KeysAndValues = tuple[Float[Tensor, "h n d"], Float[Tensor, "h n d"]]


@runtime_checkable
class Prefix(Protocol):
    """Keys and values of n positions for every layer of a decoder."""

    @property
    def length(self) -> int:
        """Number of positions n."""
        ...

    def layers(self) -> Sequence[KeysAndValues]:
        """Return the keys and values of each layer, with gradients."""
        ...


def filled_cache(prefix: Prefix, rows: int, dtype: torch.dtype) -> Any:
    """Return a new cache that holds the prefix, the same in each row."""
    from transformers import DynamicCache

    layers = [tuple(part.to(dtype).expand(rows, -1, -1, -1) for part in layer) for layer in prefix.layers()]
    return DynamicCache(layers)


def read_cache(cache: Any, name: str) -> list[tuple[Float[Tensor, "b h n d"], Float[Tensor, "b h n d"]]]:
    """Return the keys and values of each layer that a pass left in a cache.

    Args:
        cache: of transformers.
        name: of the model, for messages.

    Raises:
        UnsupportedModel: a layer has no keys and values, or they are of different sizes in different layers.
    """
    layers: list[Any] = [
        (getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in getattr(cache, "layers", ())
    ]
    shapes = {tuple(part.shape) if isinstance(part, Tensor) else None for layer in layers for part in layer}
    if len(shapes) != 1 or None in shapes:
        raise UnsupportedModel(
            f"the layers of {name!r} do not all keep keys and values of one size, so nothing can stand before them; "
            "choose 'lora' or a prompt"
        )
    return layers
