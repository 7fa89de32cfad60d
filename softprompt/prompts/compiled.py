"""A prompt whose keys and values are known: what a decoder would compute anew in each pass."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class CompiledPrefix:
    """Keys and values of a prompt and of the tokens after it, in every layer of one decoder.

    In a causal model they depend on nothing after them, so they serve every text that begins with these tokens, and
    their first n + j positions every text that begins with the first j.

    Args:
        layers: keys and values of each layer, with h heads, after what the layer does to positions.
        opening: ids of the tokens after the prompt; n is the prompt's length and their number.
    """

    layers: tuple[tuple[Float[Tensor, "h n d"], Float[Tensor, "h n d"]], ...]
    opening: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of positions n."""
        return self.layers[0][0].shape[1]

    @property
    def nbytes(self) -> int:
        """Memory of all layers."""
        return sum(part.nbytes for layer in self.layers for part in layer)
