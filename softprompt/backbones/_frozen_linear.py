"""Products with frozen matrices: the one place where the packed engine multiplies by a weight of a linear layer."""

import abc
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# A second derivative is refused, not wrong. Any: pyright takes what it returns for another signature.
once: Any = once_differentiable
# oneDNN's product where torch has it: torch itself takes MKL's, which knows no AVX-512 on processors of AMD. False
# where torch's own is wanted, as to count operations.
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Multiply-adds below which its overhead is not worth it.
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
    """

    def __init__(self, weight: Float[Tensor, "o i"]):
        self.weight = weight.detach()

    def forward(self, x: Float[Tensor, "r i"]) -> Float[Tensor, "r o"]:
        """X W^T, without a graph."""
        return _product(x, self.weight)

    def backward(self, gradient: Float[Tensor, "r o"]) -> Float[Tensor, "r i"]:
        """The gradient at x, from that at x W^T."""
        return _product(gradient, self.weight.t())


def frozen_linear(*weights: Float[Tensor, "_ i"], gain: Float[Tensor, " i"] | None = None) -> FrozenLinear:
    """One product in place of several: x -> (x * gain) [W_1; W_2; ...]^T, the gain folded into a copy of the weights.

    Folded in float32 at least, and rounded once.

    Args:
        weights: of linear layers that read the same input.
        gain: of the norm before them; None for none.
    """
    first, *others = (weight.detach() for weight in weights)
    whole = torch.cat([first, *others]) if others else first
    if gain is None:
        return FrozenLinear(whole)
    wide = torch.promote_types(whole.dtype, torch.float32)
    return FrozenLinear((whole.to(wide) * gain.detach().to(wide)).to(whole.dtype))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: AbstractFrozenLinear) -> Tensor:
        ctx.linear = linear
        return linear.forward(x)

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return ctx.linear.backward(*gradients), None


def _product(x: Float[Tensor, "r i"], weight: Float[Tensor, "o i"]) -> Float[Tensor, "r o"]:
    large = len(x) * weight.numel() >= WORTHWHILE
    if ONEDNN and large and x.dtype == torch.float32 and x.device.type == "cpu" and torch.backends.mkldnn.enabled:
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, None, "none", [], "")
    return functional.linear(x, weight)
