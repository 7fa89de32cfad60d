"""Polar coordinates: the norm of the prompt vectors is separate from their directions."""

import math
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import BadInput
from ._base import AbstractReparameterization, require_positive

# Adam moves a parameter by about its learning rate per step. The log radius moves by a fifth of that: by 0.02 at the
# method's rate of 0.1. A hundred steps then change the radius by a small factor, not by orders of magnitude.
PACE = 0.2


@final
class Polar(AbstractReparameterization):
    """P'_i = r P_i / ||P_i||, with one radius r for all positions. The direction is trained, the norm is an option.

    A trained radius is r = radius exp(rho / 5), where rho starts at 0, so that r stays positive. A zero vector has no
    direction and becomes NaN, so no initial vector may be zero.

    Args:
        e: embedding size.
        radius: norm r of every vector, in token norms; its initial value if it is trained.
        train_radius: whether r is trained.

    Raises:
        BadInput: a size is below 1, or the radius is not positive and finite.
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
        """Return the prompt vectors, with gradients."""
        directions = initial / initial.norm(dim=1, keepdim=True)
        radius = self.radius if self.log_radius is None else self.radius * (PACE * self.log_radius).exp()
        return radius * directions
