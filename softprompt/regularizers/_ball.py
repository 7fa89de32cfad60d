"""Balls around rows of embeddings, by norm and by what the norm is taken over; and the steps that climb within them.

Letters: b rows, s positions (prompt and text), e embedding size. All in float32, whatever the model computes in.
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
# Of a vector without direction: it stays 0.
TINY = 1e-30
# SMART's guard of a denominator, in its code named epsilon.
GUARD = 1e-6


@final
@dataclass(frozen=True)
class Ball:
    """{x : ||x|| <= radius}, the norm taken of each position, or of a row as a whole.

    Args:
        norm: "l2" or "linf".
        level: "token" or "sentence".
        radius: one a row.
    """

    norm: Norm
    level: Level
    radius: PerRow

    def norms(self, x: States) -> Float[Tensor, "b #s 1"]:
        """||x|| of each position, or of each row."""
        axes = (2,) if self.level == "token" else (1, 2)
        if self.norm == "l2":
            return torch.linalg.vector_norm(x, dim=axes, keepdim=True)
        return x.abs().amax(dim=axes, keepdim=True)

    def direction(self, x: States) -> States:
        """The direction x / ||x||, and 0 where x is 0."""
        return x / self.norms(x).clamp(min=TINY)

    def project(self, x: States) -> States:
        """The nearest point of the ball: x shortened to the radius (l2), or its coordinates cut (linf)."""
        if self.norm == "linf":
            return torch.maximum(torch.minimum(x, self.radius), -self.radius)
        norms = self.norms(x)
        return torch.where(norms > self.radius, x * (self.radius / norms.clamp(min=TINY)), x)


def projected(ball: Ball, x: States, gradient: States, step: PerRow, last: bool) -> States:
    """Proj(x + step g / ||g||): projected gradient ascent, as in FreeLB (Zhu et al., 2020, arXiv:1909.11764)."""
    return ball.project(x + step * ball.direction(gradient))


def normalized(ball: Ball, x: States, gradient: States, step: PerRow, last: bool) -> States:
    """The point radius y / (||y|| + 1e-6) with y = x + step g: SMART as its authors' code computes it.

    Whatever the gradient, the result lies on the sphere: in that code the number called epsilon guards the
    denominator and bounds nothing.
    """
    moved = x + step * gradient
    return ball.radius * moved / (ball.norms(moved) + GUARD)


def power(ball: Ball, x: States, gradient: States, step: PerRow, last: bool) -> States:
    """The point step g / ||g||, and at last radius g / ||g||: power iteration (Miyato et al., 2018, section 3.3)."""
    return (ball.radius if last else step) * ball.direction(gradient)


UPDATES: Mapping[str, Callable[[Ball, Tensor, Tensor, Tensor, bool], Tensor]] = {
    "projected": projected,
    "normalized": normalized,
    "power": power,
}
