"""A loss over a plane: the directions that span it, its values on a grid, its slope and curvature in the middle.

Mathematics only. What moves is one array [s, e], the embedded text of an example or a prompt; a model appears as a
function from k shifts of it to k losses.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import BadInput

# Shifts [k, s, e], added to what moves, to the loss [k] at each.
Losses = Callable[[Tensor], Tensor]


def gradient(losses: Losses, at: Float[Tensor, "s e"]) -> Float[Tensor, "s e"]:
    """The gradient of the loss with respect to what moves, where it is shifted by `at`."""
    shift = at.detach()[None].clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(losses(shift).sum(), shift)
    return slope[0]


def directions(
    slope: Float[Tensor, "s e"], mask: Bool[Tensor, " s"], generator: torch.Generator
) -> tuple[Float[Tensor, "s e"], Float[Tensor, "s e"]]:
    """X along the slope and Y a random direction at a right angle to it, both of norm 1 and 0 outside the mask.

    X = g / ||g|| and Y = (u - <u, X> X) / ||u - <u, X> X|| with u of standard normal numbers. They are drawn for the
    masked positions alone, so that padding changes nothing. Where the slope is 0, X is random too.

    Args:
        slope: g, the gradient of the loss.
        mask: the positions that may move.
        generator: on the CPU.

    Raises:
        BadInput: a slope that is not finite, or fewer than two numbers that may move.
    """
    free = slope[mask]
    if free.numel() < 2:
        raise BadInput("nothing here can be moved along a plane: give rows with text beside their special tokens")
    if not torch.isfinite(free).all():
        raise BadInput("the gradient of the loss is not finite here; this prompt has no landscape")
    along = free.to("cpu", torch.float64)
    across, spare = torch.randn(2, *free.shape, dtype=torch.float64, generator=generator)
    # In float64: squares of a confident row's gradient vanish in float32.
    x = _unit(along if along.any() else spare)
    y = _unit(across - (across * x).sum() * x)
    return _placed(x, mask, slope), _placed(y, mask, slope)


def _unit(direction: Tensor) -> Tensor:
    # Divided by the largest first, for numbers whose squares vanish even in float64.
    direction = direction / direction.abs().max()
    return direction / direction.norm()


def _placed(free: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    whole = torch.zeros_like(like)
    whole[mask] = free.to(like)
    return whole


def coordinates(grid: int) -> Float[Tensor, " g"]:
    """The g values of a and of b, from -1 to 1 in equal steps; the middle one is exactly 0."""
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
    """Z[i, j] = loss at a shift of length (a_i X + b_j Y), on a square grid over [-1, 1], in float64 on the CPU.

    Args:
        losses: of k shifts in one pass.
        x: first direction.
        y: second direction.
        length: of the step to the edge, in the unit of what moves.
        grid: points a side.
        batch_size: most shifts in one pass.
    """
    steps = length * coordinates(grid)
    points = torch.cartesian_prod(steps, steps).to(x)
    found = [losses(a[:, None, None] * x + b[:, None, None] * y) for a, b in _pairs(points, batch_size)]
    return torch.cat([values.to("cpu", torch.float64) for values in found]).view(grid, grid)


def _pairs(points: Tensor, batch_size: int) -> Sequence[tuple[Tensor, Tensor]]:
    return [(part[:, 0], part[:, 1]) for part in points.split(batch_size)]


def curvature(losses: Losses, x: Float[Tensor, "s e"], step: float) -> float:
    """X' H X, the second derivative of the loss along X, by a central difference of its gradient.

    <X, g(h X) - g(-h X)> / 2h: of the gradient, for a second difference of losses drowns in float32's rounding.

    Args:
        losses: of shifts.
        x: of norm 1.
        step: h, in the unit of what moves.
    """
    above, below = (gradient(losses, sign * step * x).double() for sign in (1.0, -1.0))
    return ((above - below) * x.double()).sum().item() / (2 * step)


def standard_error(values: Float[Tensor, " b"]) -> float | None:
    """Standard error of the mean of b values, std / sqrt(b); None for one value."""
    return None if len(values) < 2 else values.double().std().item() / math.sqrt(len(values))
