"""Trained parts that take the places of a model's own parts for a while."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ModelMismatch


@final
@dataclass(frozen=True)
class Start:
    """What the initial numbers of trained parts come from.

    Args:
        seed: determines what is random.
        sources: the vectors of prompts that were trained before, as they stand before a row.
        longest: tokens of the longest text that will be read; None where that is not known.
        shared: what a method learned from other tasks before (`Shared`); None for others.
    """

    seed: int = 0
    sources: Sequence[Float[Tensor, "n e"]] = ()
    longest: int | None = None
    shared: nn.Module | None = None


@final
@dataclass(frozen=True)
class Place:
    """One attribute of one module of a model, or of its backbone.

    Args:
        owner: the module or the backbone.
        attribute: the name of the attribute.
        original: the model's own part, a parameter or a module.
        trained: the part that stands there inside `Swap.applied`.
    """

    owner: Any
    attribute: str
    original: Any
    trained: Any

    @classmethod
    def at(cls, model: nn.Module, path: str, trained: nn.Module) -> "Place":
        """The place of a module of a model by its path."""
        owner, _, attribute = path.rpartition(".")
        return cls(model.get_submodule(owner), attribute, model.get_submodule(path), trained)


@final
class Swap(nn.Module):
    """Trained parameters, and the places in a model where they, or modules that hold them, are put.

    The model's own parameters are never written to: they are put back as they were.

    Args:
        trained: the trained parameters by their names in the model.
        places: where they go. A tied weight has several places.
        noise: dropout modules of the trained parts. Those of the model itself are not among them.
        kept: tensors that are stored with the trained ones and are not trained.
        positions: number of positions before the text that the trained parts fill.
        rates: learning rates of the parameters that have one of their own, by their names.
        in_words: names of the parameters that stand beside word vectors, and are measured in their size.
    """

    def __init__(
        self,
        trained: Mapping[str, nn.Parameter],
        places: Sequence[Place],
        noise: Sequence[nn.Module] = (),
        kept: Mapping[str, Tensor] | None = None,
        positions: int = 0,
        rates: Mapping[str, float] | None = None,
        in_words: Collection[str] = (),
    ):
        super().__init__()
        self.names = tuple(trained)
        self.trained = nn.ParameterList(trained.values())
        self.places = tuple(places)
        self.noise = nn.ModuleList(noise)
        self.positions, self.rates, self.in_words = positions, dict(rates or {}), frozenset(in_words)
        self.kept = dict(kept or {})
        # Parts of a checkpoint: a run goes on although what they were read from has changed.
        for number, tensor in enumerate(self.kept.values()):
            self.register_buffer(f"kept_{number}", tensor)

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
        """Return copies of all that is stored on the CPU: trained parameters by their names in the model, and kept."""
        return {name: values.detach().cpu().clone() for name, values in self._stored().items()}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], model: str) -> None:
        """Take the numbers of stored weights.

        Args:
            weights: what `weights` returned.
            model: name of the model, for messages.

        Raises:
            ModelMismatch: these are other weights, by their names or shapes.
        """
        stored = self._stored()
        if odd := sorted(stored.keys() ^ weights.keys()):
            raise ModelMismatch(
                f"the stored weights and those of {model!r} are not the same ones ({odd[0]!r} is on one side only); "
                "stored weights work only with their own model"
            )
        for name, weight in weights.items():
            if weight.shape != stored[name].shape:
                raise ModelMismatch(
                    f"the stored weight {name!r} has shape {tuple(weight.shape)}, that of {model!r} has "
                    f"{tuple(stored[name].shape)}; stored weights work only with their own model"
                )
            stored[name].copy_(weight)

    def _stored(self) -> dict[str, Tensor]:
        return {**dict(zip(self.names, self.trained, strict=True)), **self.kept}
