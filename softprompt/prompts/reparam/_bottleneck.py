"""EPT's linear bottleneck, and the structures that the paper's ablations add to it."""

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from ._base import AbstractReparameterization, activation_named, require_positive


@final
class Bottleneck(AbstractReparameterization):
    """P' = U D P, with D [h, e] and U [e, h]. Nothing bounds the norm, which explodes in training.

    This is Explosive Prompt Tuning, section 3.3. The parameter counts of the paper (3e with the vector, for h = 1)
    exclude biases. With all options a pair is g(x) = LayerNorm(U act(D x + b) + c). The prompt is P' = g(..g(P)) with
    `depth` pairs, and a residual adds P once, around the whole stack. Shared weights (`share_depth`) explain how
    table 4 of the paper stacks a second pair and still counts 2.3K parameters.

    Args:
        e: embedding size.
        hidden: bottleneck size h.
        depth: number of pairs in sequence.
        share_depth: whether all pairs share their weights.
        layer_norm: whether a pair ends with a LayerNorm.
        residual: whether P is added at the end.
        activation: "none", "relu", "tanh" or "sigmoid", between D and U.
        bias: whether D and U have biases.

    Raises:
        BadInput: a size is below 1.
        UnknownName: the activation does not exist.
    """

    def __init__(
        self,
        e: int,
        hidden: int = 1,
        depth: int = 1,
        share_depth: bool = True,
        layer_norm: bool = False,
        residual: bool = False,
        activation: str = "none",
        bias: bool = False,
    ):
        super().__init__()
        require_positive(e=e, hidden=hidden, depth=depth)
        self.passes = depth if share_depth else 1
        self.residual = residual
        # A shared pair is one module that runs several times, so that its weights have a single name.
        self.pairs = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Linear(e, hidden, bias=bias),
                    activation_named(activation),
                    nn.Linear(hidden, e, bias=bias),
                    nn.LayerNorm(e) if layer_norm else nn.Identity(),
                )
                for _ in range(1 if share_depth else depth)
            )
        )

    def forward(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """Return the prompt vectors, with gradients."""
        prompt = initial
        for _ in range(self.passes):
            prompt = self.pairs(prompt)
        return initial + prompt if self.residual else prompt
