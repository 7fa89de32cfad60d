"""P-Tuning's multilayer perceptron."""

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from ._base import AbstractReparameterization, require_positive


@final
class MLP(AbstractReparameterization):
    """P' = W3 relu(W2 relu(W1 P + b1) + b2) + b3, applied to each position separately.

    This is P-Tuning (Liu et al., 2021, arXiv:2103.10385) as PEFT's `PromptEncoder` builds it
    (peft/tuners/p_tuning/model.py, type MLP): three linear layers with biases, no residual, no LayerNorm.

    Args:
        e: embedding size.
        hidden: width between the layers; None takes e.

    Raises:
        BadInput: a size is below 1.
    """

    def __init__(self, e: int, hidden: int | None = None):
        super().__init__()
        hidden = e if hidden is None else hidden
        require_positive(e=e, hidden=hidden)
        self.layers = nn.Sequential(
            nn.Linear(e, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, e),
        )

    def forward(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """Return the prompt vectors, with gradients."""
        # PEFT passes a batch of one. [m, e] and [1, m, e] may be summed in different orders and so differ in bits.
        return self.layers(initial[None])[0]
