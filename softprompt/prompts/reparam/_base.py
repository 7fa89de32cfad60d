"""The contract of a reparameterisation, and the one that does nothing."""

import abc
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import BadInput, pick

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class AbstractReparameterization(nn.Module, abc.ABC):
    """Maps initial vectors to prompt vectors, P' = Phi(P). Used in training only; `fold` ends it.

    Constructed as `Class(e, **options)` with flat keyword options. Weights start as torch's layers start
    theirs (uniform within 1/sqrt(inputs)), from torch's global generator; `Method.build` makes that
    reproducible.

    Attributes:
        is_direction: whether of an initial vector only the direction counts. Then its vectors' norms are in token
            norms, not in the raw or RMS units of a prompt, and weight decay, which shortens vectors, does not apply.
    """

    is_direction: ClassVar[bool] = False

    @abc.abstractmethod
    def forward(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """The prompt vectors, with gradients."""

    @torch.no_grad()
    def fold(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """The prompt as it is stored: evaluation mode, detached, ours to keep."""
        was_training = self.training
        try:
            return self.eval()(initial).detach().clone()
        finally:
            self.train(was_training)


@final
class Identity(AbstractReparameterization):
    """P' = P: prompt tuning (Lester et al., 2021, arXiv:2104.08691), the null object of this table."""

    def __init__(self, e: int):
        super().__init__()
        require_positive(e=e)

    def forward(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """The initial vectors themselves."""
        return initial


def activation_named(name: str) -> nn.Module:
    """A new activation layer.

    Raises:
        UnknownName: with the nearest known name.
    """
    return pick("activation", name, ACTIVATIONS)()


def require_positive(**sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        BadInput: with the name of the first of them.
    """
    for name, size in sizes.items():
        if size < 1:
            raise BadInput(f"{name} must be at least 1, not {size}")
