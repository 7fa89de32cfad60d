"""The task loss of a row: what is read from the frozen model, and how far that is from the right answer."""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...backbones import AbstractBackbone
from ...losses import task_losses, wrong_tokens
from ...prompts.batch import PromptBatch, TextBatch


@runtime_checkable
class TaskLoss(Protocol):
    """A loss of one number per row. Its outputs are what the divergences of regularisers compare.

    Attributes:
        over_labels: whether the outputs are a choice between the labels; else it is one between all tokens.
    """

    @property
    def over_labels(self) -> bool: ...

    def outputs(
        self, backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch
    ) -> Float[Tensor, "b l v"]:
        """Return unnormalised log-probabilities of what the loss chooses from, in one or several places of a row."""
        ...

    def losses(self, outputs: Float[Tensor, "b l v"], batch: TextBatch) -> Float[Tensor, " b"]:
        """Return the loss of each row, in nats, or in squared units of a number."""
        ...

    def positions(self, batch: TextBatch) -> Bool[Tensor, "b l"]:
        """Return in which places of `outputs` a row has an answer."""
        ...

    def wrong(self, outputs: Float[Tensor, "b l v"], batch: TextBatch) -> Bool[Tensor, " b"]:
        """Return whether the most likely answer of each row is not the right one; False for numbers."""
        ...

    def read_positions(self, backbone: AbstractBackbone, answers: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return the positions that each row takes beside prompt and text because answers are read after it.

        Args:
            backbone: frozen.
            answers: tokens of the right answer of each row.
        """
        ...


@final
@dataclass(frozen=True)
class TokenLoss:
    """The cross entropy of the answer's tokens over the vocabulary, or of a linear head: its classes or its number.

    Args:
        smoothing: share s of the loss that all tokens, or classes, have alike: (1 - s) CE + s mean_v(-log p_v).
    """

    smoothing: float = 0.0

    @property
    def over_labels(self) -> bool:
        """The outputs are a choice between all tokens."""
        return False

    def outputs(
        self, backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch
    ) -> Float[Tensor, "b l v"]:
        """Return the logits at the label positions."""
        return backbone.logits(prompt_batch, batch)

    def losses(self, outputs: Float[Tensor, "b l v"], batch: TextBatch) -> Float[Tensor, " b"]:
        """Return the mean negative log-probability of each row's tokens, or the squared error of its number."""
        return task_losses(outputs, targets_of(batch), self.smoothing)

    def positions(self, batch: TextBatch) -> Bool[Tensor, "b l"]:
        """Return the label positions of each row."""
        targets = targets_of(batch)
        return torch.ones_like(targets, dtype=torch.bool) if targets.is_floating_point() else targets >= 0

    def wrong(self, outputs: Float[Tensor, "b l v"], batch: TextBatch) -> Bool[Tensor, " b"]:
        """Return whether a token of the answer, or the class, is not the most likely one."""
        return wrong_tokens(outputs, targets_of(batch))

    def read_positions(self, backbone: AbstractBackbone, answers: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return those of the right answers, without the last token; only a decoder reads them after rows."""
        return (answers - 1).clamp(min=0) if backbone.kind == "decoder" else torch.zeros_like(answers)


# What a run minimises unless it is asked for another loss.
TOKENS = TokenLoss()


def targets_of(batch: TextBatch) -> Tensor:
    """Return the targets of rows that have answers."""
    assert batch.targets is not None
    return batch.targets
