"""A model in `transformers.Trainer` as a loss function sees it: its kind, its words, and the pass it is in."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones.family import kind_of, word_vectors
from ..prompts.seeds import GENERATORS
from ..prompts.units import WordScale
from ..regularizers import Vocabulary


@final
class TrainedModel:
    """What the loss reads of the model that Trainer trains.

    Args:
        model: a transformers model, or PEFT's wrapper of one.
        tokenizer: its tokenizer.
        label_words: token ids of words that no perturbation of words inserts or removes.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, label_words: Sequence[Sequence[int]]):
        self.model: Any = model
        self.base: Any = getattr(model, "get_base_model", lambda: model)()
        config = self.base.config
        self.kind = kind_of(config, config._name_or_path or type(self.base).__name__)
        self.table = word_vectors(self.base).detach()
        self.words = WordScale.of(self.table)
        self.vocabulary = Vocabulary(tokenizer, len(self.table), label_words)
        self.special = torch.tensor(tokenizer.all_special_ids, device=self.table.device)

    def aligned(self, logits: Tensor, labels: Tensor) -> tuple[Float[Tensor, "b l v"], Tensor]:
        """Return logits and targets side by side, without the columns of a prompt and a decoder's shift."""
        if labels.ndim == 1:
            return logits[:, None], labels[:, None]
        text = labels.shape[1]
        if self.kind == "encoder":
            return logits[:, -text:], labels
        if self.kind == "encoder-decoder":
            return logits, labels
        # The last vector of a prompt predicts the first token of the text; without a prompt nothing does.
        return (logits[:, -text - 1 : -1], labels) if logits.shape[1] > text else (logits[:, :-1], labels[:, 1:])


@dataclass
class Pass:
    """The pass that the loss function is about to judge, and where it stands in the training.

    Args:
        steps: number of optimiser steps.
        passes: number of passes in this step.
        step: optimiser step, from 1.
        number: index of the pass in its step.
        arguments: those of the model's forward.
        draws: states of the random generators before it.
        labels: as Trainer gives them.
    """

    steps: int
    passes: int
    step: int = 1
    number: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    draws: Sequence[Tensor] = ()
    labels: Tensor = field(default_factory=lambda: torch.zeros(0))


def passes_of(step: int, accumulation: int, batches: Any) -> int:
    """The number of passes of an optimiser step of an epoch: fewer in the last one where the batches do not divide.

    Args:
        step: index of the step in its epoch, or in several whole ones.
        accumulation: passes of the other steps.
        batches: of an epoch; their number may be unknown, as in a stream.
    """
    try:
        number = len(batches)
    except TypeError:
        return accumulation
    return min(accumulation, number - accumulation * (step % -(-number // accumulation)))


def random_states() -> list[Tensor]:
    """The states of torch's generators, the CPU's first."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


@contextlib.contextmanager
def same_draws(states: Sequence[Tensor]) -> Iterator[None]:
    """Within, torch draws from these states; afterwards it goes on as if nothing had been drawn."""
    with GENERATORS, torch.random.fork_rng():
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state_all(list(states[1:]))
        yield
