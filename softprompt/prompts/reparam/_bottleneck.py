"""EPT's linear bottleneck, with the structures that its ablations add."""

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from ._base import AbstractReparameterization, activation_named, require_positive


@final
class Bottleneck(AbstractReparameterization):
    """P' = U D P, with D [h, e] and U [e, h]: nothing bounds the norm, which explodes in training.

    Explosive Prompt Tuning, section 3.3; its parameter counts (3e with the vector, for h = 1) leave no room
    for biases. With all options a pair is g(x) = LayerNorm(U act(D x + b) + c), P' = g(..g(P)) is `depth` of
    them, and a residual adds P once, around the whole stack. `share_depth` is how table 4 of the paper stacks
    a second pair and still counts 2.3K parameters.

    Args:
        e: embedding size.
        hidden: bottleneck size h.
        depth: pairs after each other.
        share_depth: whether all pairs are the same weights.
        layer_norm: whether a pair ends with a LayerNorm.
        residual: whether P is added at the end.
        activation: "none", "relu", "tanh" or "sigmoid", between D and U.
        bias: whether D and U have biases.

    Raises:
        BadInput: a size below 1.
        UnknownName: an activation that does not exist.
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
        # A shared pair is one module run several times, not listed several times: its weights have one name.
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
        """The prompt vectors, with gradients."""
        prompt = initial
        for _ in range(self.passes):
            prompt = self.pairs(prompt)
        return initial + prompt if self.residual else prompt
