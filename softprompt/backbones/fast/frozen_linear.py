"""Products with frozen matrices: the packed engine multiplies by the weights of linear layers only here."""

import abc
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .._products import HAS_ONEDNN, Library, by_onednn

# A second derivative raises an error instead of being wrong. The type is Any because pyright misreads the signature.
once: Any = once_differentiable
# Below this number of multiply-adds the overhead of oneDNN is larger than its gain.
WORTHWHILE = 1 << 20


class AbstractFrozenLinear(abc.ABC):
    """The map y = x W^T for a matrix W that gets no gradient, with dx = dy W."""

    weight: Tensor

    @abc.abstractmethod
    def forward(self, x: Float[Tensor, "r i"]) -> Float[Tensor, "r o"]:
        """Return x W^T without a graph."""

    @abc.abstractmethod
    def backward(self, gradient: Float[Tensor, "r o"]) -> Float[Tensor, "r i"]:
        """Return the gradient with respect to x, given that with respect to x W^T."""

    def __call__(self, x: Float[Tensor, "r i"]) -> Float[Tensor, "r o"]:
        """Return x W^T with its gradient. The graph saves no tensor for it."""
        result: Tensor = _Linear.apply(x, self)  # pyright: ignore[reportAssignmentType]  (apply is untyped)
        return result


@final
class FrozenLinear(AbstractFrozenLinear):
    """The product with the matrix in its own precision.

    Args:
        weight: W, in the precision of the states. It is not copied.
        library: the library that multiplies float32 on a CPU.
        bias: is added to the product, and gets no gradient.
    """

    def __init__(self, weight: Float[Tensor, "o i"], library: Library, bias: Float[Tensor, " o"] | None = None):
        self.weight, self.bias = weight.detach(), bias
        self.library: Library = library

    def forward(self, x: Float[Tensor, "r i"]) -> Float[Tensor, "r o"]:
        """Return x W^T without a graph, and the bias with it."""
        return _product(x, self.weight, self.library, self.bias)

    def backward(self, gradient: Float[Tensor, "r o"]) -> Float[Tensor, "r i"]:
        """Return the gradient with respect to x, given that with respect to x W^T."""
        return _product(gradient, self.weight.t(), self.library)


def frozen_linear(
    *weights: Float[Tensor, "_ i"], library: Library, gain: Float[Tensor, " i"] | None = None
) -> FrozenLinear:
    """Join several products to one: x -> (x * gain) [W_1; W_2; ...]^T, with the gain folded into a copy of the weights.

    The gain is folded in float32 at least, and the result is rounded once.

    Args:
        weights: weights of linear layers that read the same input.
        library: the library that multiplies float32 on a CPU.
        gain: gain of the norm before the layers; None if there is no norm.
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


def _product(
    x: Float[Tensor, "r i"], weight: Float[Tensor, "o i"], library: Library, bias: Float[Tensor, " o"] | None = None
) -> Float[Tensor, "r o"]:
    is_large = len(x) * weight.numel() >= WORTHWHILE
    is_possible = HAS_ONEDNN and torch.backends.mkldnn.enabled and x.dtype == torch.float32 and x.device.type == "cpu"
    if library == "onednn" and is_large and is_possible:
        return by_onednn(x, weight, bias)
    return functional.linear(x, weight, bias)
