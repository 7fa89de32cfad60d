"""A loss over a plane: the directions that span it, its values on a grid, and its slope and curvature at the centre.

This module holds the mathematics only. The variable is one array v [s, e], which is the embedded text of an example or
a prompt. A model is represented by a function from k deltas of v to k losses.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import BadInput

# A function from deltas [k, s, e] to the losses [k] at v + delta.
Losses = Callable[[Tensor], Tensor]


def gradient(losses: Losses, at: Float[Tensor, "s e"]) -> Float[Tensor, "s e"]:
    """Return the gradient of the loss at v + `at`."""
    delta = at.detach()[None].clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(losses(delta).sum(), delta)
    return slope[0]


def directions(
    slope: Float[Tensor, "s e"], mask: Bool[Tensor, " s"], generator: torch.Generator
) -> tuple[Float[Tensor, "s e"], Float[Tensor, "s e"]]:
    """Return X along the slope and a random orthogonal direction Y, both of norm 1 and 0 outside the mask.

    X = g / ||g|| and Y = (u - <u, X> X) / ||u - <u, X> X||, where u is standard normal. u is drawn for the masked
    positions only, so that padding does not change the result. If the slope is 0, X is random too.

    Args:
        slope: the gradient g of the loss.
        mask: the positions that may change.
        generator: a generator on the CPU.

    Raises:
        BadInput: the slope is not finite, or fewer than two coordinates may change.
    """
    free = slope[mask]
    if free.numel() < 2:
        raise BadInput("nothing here can be moved along a plane: give rows with text beside their special tokens")
    if not torch.isfinite(free).all():
        raise BadInput("the gradient of the loss is not finite here; this prompt has no landscape")
    along = free.to("cpu", torch.float64)
    across, spare = torch.randn(2, *free.shape, dtype=torch.float64, generator=generator)
    # This needs float64: if a row is answered with confidence, the squares of its gradient underflow in float32.
    x = _unit(along if along.any() else spare)
    y = _unit(across - (across * x).sum() * x)
    return _placed(x, mask, slope), _placed(y, mask, slope)


def _unit(direction: Tensor) -> Tensor:
    # The division by the largest number comes first, because squares may underflow even in float64.
    direction = direction / direction.abs().max()
    return direction / direction.norm()


def _placed(free: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    whole = torch.zeros_like(like)
    whole[mask] = free.to(like)
    return whole


def coordinates(grid: int) -> Float[Tensor, " g"]:
    """Return the g values of a and of b, from -1 to 1 in equal steps. The middle value is exactly 0."""
    half = grid // 2
    return torch.arange(-half, half + 1, dtype=torch.float64) / half


@torch.no_grad()
def surface(
    losses: Losses,
    x: Float[Tensor, "s e"],
    y: Float[Tensor, "s e"],
    length: float,
    grid: int,
    batch_size: int,
) -> Float[Tensor, "g g"]:
    """Return Z[i, j], the loss at v + length (a_i X + b_j Y) on a square grid over [-1, 1], in float64 on the CPU.

    Args:
        losses: computes the losses of k deltas in one pass.
        x: first direction X.
        y: second direction Y.
        length: distance from the centre to an edge, in the unit of v.
        grid: points per side.
        batch_size: largest number of deltas in one pass.
    """
    steps = length * coordinates(grid)
    points = torch.cartesian_prod(steps, steps).to(x)
    values = [losses(a[:, None, None] * x + b[:, None, None] * y) for a, b in _pairs(points, batch_size)]
    return torch.cat([part.to("cpu", torch.float64) for part in values]).view(grid, grid)


def _pairs(points: Tensor, batch_size: int) -> Sequence[tuple[Tensor, Tensor]]:
    return [(part[:, 0], part[:, 1]) for part in points.split(batch_size)]


def curvature(losses: Losses, x: Float[Tensor, "s e"], step: float) -> float:
    """Return X' H X, the second derivative of the loss along X, by a central difference of its gradient.

    The formula is <X, g(h X) - g(-h X)> / 2h. It uses gradients because a second difference of losses would be lost in
    the rounding of float32.

    Args:
        losses: computes the losses of deltas.
        x: the direction X, of norm 1.
        step: h, in the unit of v.
    """
    above, below = (gradient(losses, sign * step * x).double() for sign in (1.0, -1.0))
    return ((above - below) * x.double()).sum().item() / (2 * step)


def standard_error(values: Float[Tensor, " b"]) -> float | None:
    """Return the standard error of the mean of b values, std / sqrt(b), or None for one value."""
    return None if len(values) < 2 else values.double().std().item() / math.sqrt(len(values))
