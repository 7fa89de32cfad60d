"""The contract of what the training loop trains; a soft prompt in training (`TrainablePrompt`) implements it."""

import abc
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .methods import Method
from .prompt import LinearHead, Provenance
from .seeds import seeded, stream_seed
from .standardization import Standardization
from .tuned import Stored


@final
@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one learning rate and one rule for weight decay.

    Args:
        parameters: the parameters.
        rate: their learning rate, or the field of `PromptSettings` that gives it.
        decays: whether the run's weight decay applies to them.
        unit: what they are measured in, in the model's own numbers. Rate and decay act on the parameters in this unit.
    """

    parameters: Sequence[nn.Parameter]
    rate: Literal["lr", "head_lr"] | float
    decays: bool
    unit: float = 1.0


class AbstractTrainable(nn.Module, abc.ABC):
    """What one member of a fleet trains, how it meets the frozen model, and how it is stored.

    Attributes:
        method: the method, which names it in tables and gives the prompt length.
        numbers: the standardisation of the targets of a head of one output, or None.
        begins_at_words: whether it begins as words in front of the text, so that its start is worth a score.
        is_alone: whether it needs the passes of the model to itself, because it changes what the model computes.
    """

    method: Method
    numbers: Standardization | None
    begins_at_words: bool = False
    is_alone: bool = False

    @property
    def length(self) -> int:
        """Prompt length n: the number of positions before the text."""
        return self.method.prompt_length

    def applied(self) -> contextlib.AbstractContextManager[None]:
        """Inside the `with` block, the model computes with what is trained; a prompt changes nothing."""
        return contextlib.nullcontext()

    @property
    def has_noise(self) -> bool:
        """Whether the model's passes draw random numbers for it, so that each pass needs a seed."""
        return False

    @property
    def token_norm(self) -> float | None:
        """The mean norm of a word vector, in which the prompt's norm is reported; None without a prompt."""
        return None

    @abc.abstractmethod
    def groups(self) -> list[ParameterGroup]:
        """List the parameters with their learning rates and their decay. The rate of the first group is recorded."""

    @abc.abstractmethod
    def prompt_parameters(self) -> list[nn.Parameter]:
        """List the parameters behind the prompt vectors, which a gradient has to reach; empty without a prompt."""

    @property
    def is_random(self) -> bool:
        """Whether `vectors` draws random numbers, so that a pass needs a seed."""
        return False

    @abc.abstractmethod
    def vectors(self) -> Float[Tensor, "n e"]:
        """Return the n prompt vectors as the backbone sees them, with gradients."""

    @abc.abstractmethod
    def deep_vectors(self) -> Float[Tensor, "k n e"] | None:
        """Return the n vectors that enter each layer after the first, with gradients; None for an ordinary prompt."""

    @abc.abstractmethod
    def linear_head(self) -> LinearHead | None:
        """Return the weight and bias of the head, with gradients; None where there is no head."""

    def project(self) -> None:
        """Move the parameters back into what their bounds allow; called after each optimiser step."""

    @abc.abstractmethod
    def is_finite(self) -> bool:
        """Whether all numbers that would be stored are finite."""

    @abc.abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what provenance records of it beside its settings, as plain values: counts, scales."""

    @abc.abstractmethod
    def fold(self, provenance: Provenance) -> Stored:
        """Return a copy of it in the form in which it is stored."""

    @abc.abstractmethod
    def restored(self, tensors: Mapping[str, Tensor], provenance: Provenance) -> Stored:
        """Return what `fold` once returned, from the tensors that its `tensors()` gave."""


def new_head(shape: tuple[int, int] | None, seed: int) -> nn.Linear | None:
    """Return the linear head of shape (outputs, hidden size) that every method begins with, or None for None.

    Args:
        shape: the shape.
        seed: the initialisation seed.
    """
    if shape is None:
        return None
    with seeded(stream_seed(seed, "head"), torch.device("cpu")):
        return nn.Linear(shape[1], shape[0])


def folded_head(head: nn.Linear | None, numbers: Standardization | None) -> LinearHead | None:
    """Return a copy of the head as it is stored: in float32 on the CPU, and without the standardisation."""
    if head is None:
        return None
    weight, bias = (x.detach().float().cpu().clone() for x in (head.weight, head.bias))
    return LinearHead(weight, bias) if numbers is None else numbers.unfolded(LinearHead(weight, bias))
