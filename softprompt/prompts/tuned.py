"""Trained weights as they are stored and used: what is left of a method that trains no prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadInput
from .prompt import LinearHead, Provenance, SoftPrompt
from .tuned_options import check_options, check_sizes

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PROMPT, WEIGHTS = "prompt.", "weights."


@final
@dataclass(frozen=True, eq=False)
class TunedWeights:
    """Weights that take the places of a model's own, or stand beside them, while it answers.

    Args:
        prompt: what stands before the rows, with provenance and linear head; a prompt of length 0 for most methods.
        kind: a name in `BASELINES`, which says where the weights belong.
        weights: the trained weights by their names in the model, in float32 or float64.
        options: the options of the kind, such as the rank of a LoRA.

    Raises:
        UnknownName: there is no such kind.
        BadInput: a weight is no float or not finite, or there is none, or the options are not those of the kind.
    """

    prompt: SoftPrompt
    kind: str
    weights: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse weights that would answer nonsense."""
        if not self.weights:
            raise BadInput(f"there are no trained weights of {self.kind!r}; train them again")
        check_options(self.kind, self.options)
        check_sizes(self.kind, self.options, self.weights)
        for name, weight in self.weights.items():
            if weight.dtype not in FLOATS:
                raise BadInput(f"the trained weight {name!r} is {weight.dtype}, and trained weights are floats")
            if not torch.isfinite(weight).all():
                raise BadInput(f"the trained weight {name!r} holds NaN or infinity and would answer nonsense")

    @property
    def provenance(self) -> Provenance:
        """Method, model, task, scores, seeds and versions."""
        return self.prompt.provenance

    @property
    def head(self) -> LinearHead | None:
        """Class scores for an encoder without label words."""
        return self.prompt.head

    @property
    def vectors(self) -> Float[Tensor, "m e"]:
        """The vectors of the prompt before all rows; none where the weights make a prompt for each row."""
        # Zeros hold the place of such a prompt.
        return self.prompt.vectors[:0] if "length" in self.options else self.prompt.vectors

    @property
    def length(self) -> int:
        """Number of positions before the text, those of keys and values in a cache among them."""
        return self.options.get("length", self.prompt.length)

    @property
    def stored(self) -> int:
        """Number of stored parameters, without a linear head."""
        return self.vectors.numel() + sum(weight.numel() for weight in self.weights.values())

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by the names under which they are stored."""
        prompt = {PROMPT + name: tensor for name, tensor in self.prompt.tensors().items()}
        return {**prompt, **{WEIGHTS + name: tensor for name, tensor in self.weights.items()}}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], provenance: Provenance, kind: str, options: Mapping[str, Any]
    ) -> "TunedWeights":
        """Return the weights whose `tensors` these are."""
        prompt = SoftPrompt.from_tensors(below(PROMPT, tensors), provenance, repeats=1)
        return cls(prompt, kind, below(WEIGHTS, tensors), options)


# What training leaves and `evaluate` and `predict` take.
Stored = SoftPrompt | TunedWeights


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors whose names begin with `prefix`, and remove the prefix from the names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
