"""Residual prompt tuning: a bottleneck with LayerNorm and a residual connection around it."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import BadInput
from ._base import AbstractReparameterization, activation_named, require_positive


@final
class ResidualBottleneck(AbstractReparameterization):
    """P' = P + f(...f(P)), with f(x) = LayerNorm(W_up act(W_down x + b_down) + b_up), applied `passes` times.

    Residual Prompt Tuning (Razdaibiedina et al., 2023, arXiv:2305.03937), section 3, has one pass. Its released code
    runs two passes through the same weights, LayerNorm included, with a single residual around both ("MLP2" in
    arazd/ResidualPrompts, prompt_tuner2.py, class ResMLP). With 400 units this is also the baseline of Explosive
    Prompt Tuning: no other structure fits the parameter counts of that paper.

    Args:
        e: embedding size.
        bottleneck: size of the hidden layer.
        passes: how often the network is applied.
        per_position: 0 shares one network among all positions. The number of positions m gives each its own network.
        layer_norm: whether f ends with a LayerNorm.
        activation: "relu", "tanh", "sigmoid" or "none".
        dropout: probability, at least 0 and below 1, of dropping a unit of the up-projection; drawn from torch's
            global generator.

    Raises:
        BadInput: a size is below 1, or the dropout is outside [0, 1).
        UnknownName: the activation does not exist.
    """

    def __init__(
        self,
        e: int,
        bottleneck: int = 400,
        passes: int = 2,
        per_position: int = 0,
        layer_norm: bool = True,
        activation: str = "relu",
        dropout: float = 0.0,
    ):
        super().__init__()
        require_positive(e=e, bottleneck=bottleneck, passes=passes)
        if per_position < 0:
            raise BadInput(f"per_position is 0 (shared) or the number of positions, not {per_position}")
        if not 0 <= dropout < 1:
            raise BadInput(f"dropout must be at least 0 and below 1, not {dropout}")
        self.passes, self.per_position = passes, per_position
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(e, bottleneck),
                activation_named(activation),
                nn.Linear(bottleneck, e),
                nn.Dropout(dropout),
                nn.LayerNorm(e) if layer_norm else nn.Identity(),
            )
            for _ in range(per_position or 1)
        )

    def forward(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """Return the prompt vectors, with gradients.

        Raises:
            BadInput: `per_position` is set and differs from the number of positions.
        """
        if not self.per_position:
            return initial + self._passed(self.networks[0], initial)
        if len(initial) != self.per_position:
            raise BadInput(
                f"per_position is {self.per_position} but the prompt has {len(initial)} vectors; "
                f"set per_position to {len(initial)}, or to 0 to share one network"
            )
        passed = [self._passed(network, row) for network, row in zip(self.networks, initial, strict=True)]
        return initial + torch.stack(passed)

    def _passed(self, network: nn.Module, x: Float[Tensor, "*m e"]) -> Float[Tensor, "*m e"]:
        for _ in range(self.passes):
            x = network(x)
        return x
