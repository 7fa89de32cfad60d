"""The contract of a reparameterisation, and the one that does nothing."""

import abc
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


class AbstractReparameterization(nn.Module, abc.ABC):
    """Maps initial vectors to prompt vectors, P' = Phi(P). Used in training only; `fold` ends it."""

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

    def forward(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """The initial vectors themselves."""
        return initial
