"""Norm balls around embeddings, and the ascent steps within them.

Shapes: b rows, s positions (prompt and text), e embedding size. Everything is float32, whatever precision the model
computes in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

Norm = Literal["l2", "linf"]
Level = Literal["token", "sentence"]
States = Float[Tensor, "b s e"]
PerRow = Float[Tensor, "b 1 1"]
# Lower bound of a norm in a denominator, so that the direction of a zero vector is 0.
TINY = 1e-30
# The constant that SMART's code adds to a denominator. The code calls it epsilon.
GUARD = 1e-6


@final
@dataclass(frozen=True)
class Ball:
    """The set {x : ||x|| <= radius}, with the norm of each position or of a whole row.

    Args:
        norm: "l2" or "linf".
        level: "token" for the norm of each position, "sentence" for the norm of a whole row.
        radius: one radius per row.
    """

    norm: Norm
    level: Level
    radius: PerRow

    def norms(self, x: States) -> Float[Tensor, "b #s 1"]:
        """Return ||x|| of each position, or of each row."""
        axes = (2,) if self.level == "token" else (1, 2)
        if self.norm == "l2":
            return torch.linalg.vector_norm(x, dim=axes, keepdim=True)
        return x.abs().amax(dim=axes, keepdim=True)

    def direction(self, x: States) -> States:
        """Return x / ||x||, and 0 where x is 0."""
        return x / self.norms(x).clamp(min=TINY)

    def project(self, x: States) -> States:
        """Return the nearest point of the ball: x shortened to the radius (l2) or its coordinates clamped (linf)."""
        if self.norm == "linf":
            return torch.maximum(torch.minimum(x, self.radius), -self.radius)
        norms = self.norms(x)
        return torch.where(norms > self.radius, x * (self.radius / norms.clamp(min=TINY)), x)


def projected(ball: Ball, x: States, gradient: States, step: PerRow, last: bool) -> States:
    """Return Proj(x + step g / ||g||): projected gradient ascent, as in FreeLB (Zhu et al., 2020, arXiv:1909.11764)."""
    return ball.project(x + step * ball.direction(gradient))


def normalized(ball: Ball, x: States, gradient: States, step: PerRow, last: bool) -> States:
    """Return radius y / (||y|| + 1e-6) with y = x + step g, as the code of SMART's authors computes it.

    The result lies on the sphere whatever the gradient is: in that code the number called epsilon guards the
    denominator and bounds nothing.
    """
    ascended = x + step * gradient
    return ball.radius * ascended / (ball.norms(ascended) + GUARD)


def power(ball: Ball, x: States, gradient: States, step: PerRow, last: bool) -> States:
    """Return step g / ||g||, and radius g / ||g|| in the last step: power iteration (Miyato et al., 2018, sec. 3.3)."""
    return (ball.radius if last else step) * ball.direction(gradient)


UPDATES: Mapping[str, Callable[[Ball, Tensor, Tensor, Tensor, bool], Tensor]] = {
    "projected": projected,
    "normalized": normalized,
    "power": power,
}
