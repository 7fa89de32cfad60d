"""Trained parts that take the places of a model's own parts for a while."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ..errors import ModelMismatch


@final
@dataclass(frozen=True)
class Place:
    """One attribute of one module of a model.

    Args:
        owner: the module.
        attribute: the name of the attribute.
        original: the model's own part, a parameter or a module.
        trained: the part that stands there inside `Swap.applied`.
    """

    owner: nn.Module
    attribute: str
    original: nn.Parameter | nn.Module
    trained: nn.Parameter | nn.Module


@final
class Swap(nn.Module):
    """Trained parameters, and the places in a model where they, or modules that hold them, are put.

    The model's own parameters are never written to: they are put back as they were.

    Args:
        trained: the trained parameters by their names in the model.
        places: where they go. A tied weight has several places.
        noise: dropout modules of the trained parts. Those of the model itself are not among them.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], places: Sequence[Place], noise: Sequence[nn.Module] = ()):
        super().__init__()
        self.names = tuple(trained)
        self.trained = nn.ParameterList(trained.values())
        self.places = tuple(places)
        self.noise = nn.ModuleList(noise)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the `with` block, the model computes with the trained parts; afterwards, with its own again."""
        try:
            for place in self.places:
                setattr(place.owner, place.attribute, place.trained)
            yield
        finally:
            for place in self.places:
                setattr(place.owner, place.attribute, place.original)

    @property
    def count(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.trained)

    @property
    def has_noise(self) -> bool:
        """Whether the trained parts draw dropout during training."""
        return any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.noise.modules())

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the trained parameters on the CPU, by their names in the model."""
        return {
            name: parameter.detach().cpu().clone() for name, parameter in zip(self.names, self.trained, strict=True)
        }

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], model: str) -> None:
        """Take the numbers of stored weights.

        Args:
            weights: what `weights` returned.
            model: name of the model, for messages.

        Raises:
            ModelMismatch: these are other weights, by their names or shapes.
        """
        own = dict(zip(self.names, self.trained, strict=True))
        if odd := sorted(own.keys() ^ weights.keys()):
            raise ModelMismatch(
                f"the stored weights and those of {model!r} are not the same ones ({odd[0]!r} is on one side only); "
                "stored weights work only with their own model"
            )
        for name, weight in weights.items():
            if weight.shape != own[name].shape:
                raise ModelMismatch(
                    f"the stored weight {name!r} has shape {tuple(weight.shape)}, that of {model!r} has "
                    f"{tuple(own[name].shape)}; stored weights work only with their own model"
                )
            own[name].copy_(weight)
