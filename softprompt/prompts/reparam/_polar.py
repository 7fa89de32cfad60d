"""Polar coordinates: the length of the prompt vectors apart from their direction."""

import math
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import BadInput
from ._base import AbstractReparameterization, require_positive

# Adam moves every number by about its learning rate. Log radius moves by a fifth of that: at the method's 0.1, by 0.02
# a step, so that some hundred steps change the radius by a factor and not by orders of magnitude.
PACE = 0.2


@final
class Polar(AbstractReparameterization):
    """P'_i = r P_i / ||P_i||, with one radius r for all positions: the direction is free, the norm is told.

    A trained radius is r = radius exp(rho / 5), with rho starting at 0, so that it stays positive. A zero vector has
    no direction and becomes NaN: nothing starts at one.

    Args:
        e: embedding size.
        radius: norm r of every vector, in token norms; where it starts if it is trained.
        train_radius: whether r is trained.

    Raises:
        BadInput: a size below 1, a radius that is not positive and finite.
    """

    is_direction: ClassVar[bool] = True

    def __init__(self, e: int, radius: float = 3.0, train_radius: bool = False):
        super().__init__()
        require_positive(e=e)
        if not (math.isfinite(radius) and radius > 0):
            raise BadInput(f"radius must be positive and finite, in token norms, not {radius}")
        self.radius = radius
        self.log_radius = nn.Parameter(torch.zeros(())) if train_radius else None

    def forward(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """The prompt vectors, with gradients."""
        directions = initial / initial.norm(dim=1, keepdim=True)
        radius = self.radius if self.log_radius is None else self.radius * (PACE * self.log_radius).exp()
        return radius * directions
