"""Words on top of which a prompt is trained."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True)
class Base:
    """Words that stay as they are while a prompt is trained on top of them.

    Args:
        vectors: the vectors of the words, in the model's own numbers.
        is_beginning: whether the prompt begins at exactly these vectors. Otherwise its own vectors are added from the
            start, as where words stand before a prompt that begins at random vectors.
    """

    vectors: Float[Tensor, "n e"]
    is_beginning: bool = True
