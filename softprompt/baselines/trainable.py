"""Weights in training: the contract of the training loop for what is no prompt."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..prompts.contract import AbstractTrainable, ParameterGroup, folded_head, new_head
from ..prompts.methods import Method
from ..prompts.prompt import LinearHead, Provenance, SoftPrompt
from ..prompts.seeds import stream_seed
from ..prompts.standardization import Standardization
from ..prompts.tuned import TunedWeights
from ..settings import PromptSettings
from .kinds import reference_passes, swap_for
from .swap import Swap


@final
class TrainableWeights(AbstractTrainable):
    """Weights of a model, and a linear head where one is needed. No prompt stands before the rows.

    Args:
        method: the method.
        swap: the trained weights and their places.
        head: a trained linear head, or None where the backbone answers in tokens.
        backbone: the model, which stays as it is.
        numbers: the standardisation of the targets of a head of one output.
    """

    is_alone = True

    def __init__(
        self,
        method: Method,
        swap: Swap,
        head: nn.Linear | None,
        backbone: AbstractBackbone,
        numbers: Standardization | None = None,
    ):
        super().__init__()
        self.method, self.numbers = method, numbers
        self.swap, self.head = swap, head
        self.backbone = backbone

    @classmethod
    def build(
        cls,
        settings: PromptSettings,
        backbone: AbstractBackbone,
        head_shape: tuple[int, int] | None,
        numbers: Standardization | None = None,
    ) -> "TrainableWeights":
        """Build what `settings` describe. The head begins as a prompt's of the same seed.

        Raises:
            UnsupportedModel: the model cannot have these weights.
        """
        method, seed = Method.of(settings), settings.seeds.initialization
        swap = swap_for(method.weights, backbone, method.options, stream_seed(seed, "network"))
        head = new_head(head_shape, seed)
        return cls(method, swap, None if head is None else head.to(backbone.device), backbone, numbers)

    @property
    def has_noise(self) -> bool:
        """Whether the trained weights draw dropout in each pass."""
        return self.swap.has_noise

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the `with` block, the model computes with the trained weights, by the passes of transformers."""
        with reference_passes(self.backbone), self.swap.applied():
            yield

    def groups(self) -> list[ParameterGroup]:
        """List the weights, which decay, and the head, which does not."""
        head = [] if self.head is None else list(self.head.parameters())
        groups = (ParameterGroup(list(self.swap.trained), "lr", True), ParameterGroup(head, "head_lr", False))
        return [group for group in groups if group.parameters]

    def prompt_parameters(self) -> list[nn.Parameter]:
        """There is no prompt."""
        return []

    def vectors(self) -> Float[Tensor, "n e"]:
        """A prompt of length 0."""
        return torch.zeros(0, self.backbone.embedding_size, device=self.backbone.device)

    def deep_vectors(self) -> None:
        """There is no deep prompt."""

    def linear_head(self) -> LinearHead | None:
        """Return the weight and bias of the head, with gradients; None where there is no head."""
        return None if self.head is None else LinearHead(self.head.weight, self.head.bias)

    def is_finite(self) -> bool:
        """Whether all weights and the head are finite."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters())

    def facts(self) -> dict[str, Any]:
        """Return the count of trained weights, and the standardisation where there is one."""
        return {"trainable": self.swap.count, **(self.numbers.to_json() if self.numbers else {})}

    def fold(self, provenance: Provenance) -> TunedWeights:
        """Return copies of the weights and of the head."""
        nothing = torch.zeros(0, self.backbone.embedding_size)
        prompt = SoftPrompt(nothing, provenance, head=folded_head(self.head, self.numbers))
        return TunedWeights(prompt, self.method.weights, self.swap.weights(), self.method.options)

    def restored(self, tensors: Mapping[str, Tensor], provenance: Provenance) -> TunedWeights:
        """Return stored weights of this method from the tensors that `TunedWeights.tensors` gave."""
        return TunedWeights.from_tensors(tensors, provenance, self.method.weights, self.method.options)
