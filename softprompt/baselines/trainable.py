"""Weights in training: the contract of the training loop for what is no prompt."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
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
from ..prompts.units import WordScale
from ..settings import PromptSettings
from .kinds import reference_passes, swap_for
from .swap import Start, Swap


@final
class TrainableWeights(AbstractTrainable):
    """Weights of a model, and a linear head where one is needed. No prompt stands before the rows.

    Args:
        method: the method.
        swap: the trained weights and their places.
        head: a trained linear head, or None where the backbone answers in tokens.
        backbone: the model, which stays as it is.
        numbers: the standardisation of the targets of a head of one output.
        unit: what parameters beside word vectors are measured in.
    """

    is_alone = True

    def __init__(
        self,
        method: Method,
        swap: Swap,
        head: nn.Linear | None,
        backbone: AbstractBackbone,
        numbers: Standardization | None = None,
        unit: float = 1.0,
    ):
        super().__init__()
        self.method, self.numbers, self.unit = method, numbers, unit
        self.swap, self.head = swap, head
        self.backbone = backbone

    @classmethod
    def build(
        cls,
        settings: PromptSettings,
        backbone: AbstractBackbone,
        head_shape: tuple[int, int] | None,
        numbers: Standardization | None = None,
        sources: Sequence[Float[Tensor, "n e"]] = (),
        longest: int | None = None,
        shared: nn.Module | None = None,
    ) -> "TrainableWeights":
        """Build what `settings` describe. The head begins as a prompt's of the same seed.

        Args:
            settings: method, options, seeds.
            backbone: the model, which stays as it is.
            head_shape: (classes, hidden size) of a linear head, or None.
            numbers: the standardisation of the targets of a head of one output.
            sources: the vectors of the source prompts, for a method that has any.
            longest: tokens of the longest text that will be read.
            shared: what the method learned from other tasks before.

        Raises:
            UnsupportedModel: the model cannot have these weights.
        """
        method, seed = Method.of(settings), settings.seeds.initialization
        start = Start(stream_seed(seed, "network"), sources, longest, shared)
        swap = swap_for(method.weights, backbone, method.options, start)
        head = new_head(head_shape, seed)
        head = None if head is None else head.to(backbone.device)
        is_in_words = bool(swap.in_words) and method.resolved(settings).units == "rms"
        unit = WordScale.of(backbone.word_vectors).rms if is_in_words else 1.0
        return cls(method, swap, head, backbone, numbers, unit)

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
        """List the weights, which decay, those with a rate of their own last, and the head, which does not."""
        alike: dict[tuple[Any, float], list[nn.Parameter]] = {}
        # Those with the rate of the method come first, for its rate is recorded.
        named = sorted(
            zip(self.swap.names, self.swap.trained, strict=True), key=lambda pair: pair[0] in self.swap.rates
        )
        for name, parameter in named:
            unit = self.unit if name in self.swap.in_words else 1.0
            alike.setdefault((self.swap.rates.get(name, "lr"), unit), []).append(parameter)
        groups = [ParameterGroup(parameters, rate, True, unit) for (rate, unit), parameters in alike.items()]
        head = [] if self.head is None else list(self.head.parameters())
        return [group for group in (*groups, ParameterGroup(head, "head_lr", False)) if group.parameters]

    def prompt_parameters(self) -> list[nn.Parameter]:
        """There is no prompt."""
        return []

    def vectors(self) -> Float[Tensor, "n e"]:
        """Zeros where the weights put a prompt for each row, else a prompt of length 0."""
        return torch.zeros(self.swap.positions, self.backbone.embedding_size, device=self.backbone.device)

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
        nothing = torch.zeros(self.swap.positions, self.backbone.embedding_size)
        prompt = SoftPrompt(nothing, provenance, head=folded_head(self.head, self.numbers))
        return TunedWeights(prompt, self.method.weights, self.swap.weights(), self.method.options)

    def restored(self, tensors: Mapping[str, Tensor], provenance: Provenance) -> TunedWeights:
        """Return stored weights of this method from the tensors that `TunedWeights.tensors` gave."""
        return TunedWeights.from_tensors(tensors, provenance, self.method.weights, self.method.options)
