"""Products with frozen matrices: the one place where the packed engine multiplies by a weight of a linear layer."""

import abc
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .._products import HAS_ONEDNN, Library, by_onednn

# A second derivative is refused, not wrong. Any: pyright takes what it returns for another signature.
once: Any = once_differentiable
# Multiply-adds below which oneDNN's overhead is not worth it.
WORTHWHILE = 1 << 20


class AbstractFrozenLinear(abc.ABC):
    """x -> x W^T for a matrix that gets no gradient: y = x W^T, and dx = dy W."""

    weight: Tensor

    @abc.abstractmethod
    def forward(self, x: Float[Tensor, "r i"]) -> Float[Tensor, "r o"]:
        """X W^T, without a graph."""

    @abc.abstractmethod
    def backward(self, gradient: Float[Tensor, "r o"]) -> Float[Tensor, "r i"]:
        """The gradient at x, from that at x W^T."""

    def __call__(self, x: Float[Tensor, "r i"]) -> Float[Tensor, "r o"]:
        """X W^T with its gradient, for which nothing is saved."""
        result: Tensor = _Linear.apply(x, self)  # pyright: ignore[reportAssignmentType]
        return result


@final
class FrozenLinear(AbstractFrozenLinear):
    """By the matrix as it is.

    Args:
        weight: W, in the precision of the states; kept as it is, not copied.
        library: that multiplies float32 on a CPU.
    """

    def __init__(self, weight: Float[Tensor, "o i"], library: Library):
        self.weight = weight.detach()
        self.library: Library = library

    def forward(self, x: Float[Tensor, "r i"]) -> Float[Tensor, "r o"]:
        """X W^T, without a graph."""
        return _product(x, self.weight, self.library)

    def backward(self, gradient: Float[Tensor, "r o"]) -> Float[Tensor, "r i"]:
        """The gradient at x, from that at x W^T."""
        return _product(gradient, self.weight.t(), self.library)


def frozen_linear(
    *weights: Float[Tensor, "_ i"], library: Library, gain: Float[Tensor, " i"] | None = None
) -> FrozenLinear:
    """One product in place of several: x -> (x * gain) [W_1; W_2; ...]^T, the gain folded into a copy of the weights.

    Folded in float32 at least, and rounded once.

    Args:
        weights: of linear layers that read the same input.
        library: that multiplies float32 on a CPU.
        gain: of the norm before them; None for none.
    """
    first, *others = (weight.detach() for weight in weights)
    whole = torch.cat([first, *others]) if others else first
    if gain is None:
        return FrozenLinear(whole, library)
    wide = torch.promote_types(whole.dtype, torch.float32)
    return FrozenLinear((whole.to(wide) * gain.detach().to(wide)).to(whole.dtype), library)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: AbstractFrozenLinear) -> Tensor:
        ctx.linear = linear
        return linear.forward(x)

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return ctx.linear.backward(*gradients), None


def _product(x: Float[Tensor, "r i"], weight: Float[Tensor, "o i"], library: Library) -> Float[Tensor, "r o"]:
    is_large = len(x) * weight.numel() >= WORTHWHILE
    can = HAS_ONEDNN and torch.backends.mkldnn.enabled and x.dtype == torch.float32 and x.device.type == "cpu"
    return by_onednn(x, weight) if library == "onednn" and is_large and can else functional.linear(x, weight)
