"""The contract of a reparameterisation, and the identity."""

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
    """Maps initial vectors to prompt vectors, P' = Phi(P), during training only. `fold` gives the final vectors.

    It is constructed as `Class(e, **options)` with flat keyword options. Its weights start as those of torch's layers
    do (uniform within 1/sqrt(inputs)), drawn from torch's global generator. `Method.build` makes that reproducible.

    Attributes:
        is_direction: whether only the direction of an initial vector counts. The norms of the output are then in token
            norms, not in the raw or RMS units of a prompt. Weight decay shortens vectors and therefore does not apply.
    """

    is_direction: ClassVar[bool] = False

    @abc.abstractmethod
    def forward(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """Return the prompt vectors, with gradients."""

    @torch.no_grad()
    def fold(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """Return the prompt vectors as they are stored: computed in evaluation mode, as a detached copy."""
        was_training = self.training
        try:
            return self.eval()(initial).detach().clone()
        finally:
            self.train(was_training)


@final
class Identity(AbstractReparameterization):
    """P' = P: prompt tuning (Lester et al., 2021, arXiv:2104.08691), which has no reparameterisation."""

    def __init__(self, e: int):
        super().__init__()
        require_positive(e=e)

    def forward(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """Return the initial vectors themselves."""
        return initial


def activation_named(name: str) -> nn.Module:
    """Return a new activation layer.

    Raises:
        UnknownName: the name does not exist; the message gives the nearest one.
    """
    return pick("activation", name, ACTIVATIONS)()


def require_positive(**sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        BadInput: a size is below 1; the message names the first such size.
    """
    for name, size in sizes.items():
        if size < 1:
            raise BadInput(f"{name} must be at least 1, not {size}")
