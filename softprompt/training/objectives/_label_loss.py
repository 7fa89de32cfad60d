"""Losses over labels: the cross entropy of the choice between the label words, by the scores of the evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ...backbones import AbstractBackbone, Reading, label_logits
from ...losses import precise
from ...prompts.batch import PromptBatch, TextBatch
from ._task_loss import TaskLoss


@dataclass(frozen=True)
class _OverLabels:
    """What the losses over labels share: the labels, and what of a row they look at.

    Args:
        labels: token ids of the label words.
        normalize: how the log-probabilities of a label's tokens become its score.
        smoothing: share of the loss that all labels have alike.
    """

    labels: Sequence[Sequence[int]]
    normalize: str = "sum"
    smoothing: float = 0.0

    @property
    def over_labels(self) -> bool:
        """The outputs are a choice between the labels."""
        return True

    def positions(self, batch: TextBatch) -> Bool[Tensor, "b 1"]:
        """Return the only place of each row."""
        return torch.ones_like(batch.owner, dtype=torch.bool)[:, None]

    def wrong(self, outputs: Float[Tensor, "b 1 c"], batch: TextBatch) -> Bool[Tensor, " b"]:
        """Return whether another label than the right one has the highest score."""
        return outputs[:, 0].argmax(-1) != classes_of(batch)

    def read_positions(self, backbone: AbstractBackbone, answers: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return the positions of the labels, as the evaluation counts them."""
        return torch.full_like(answers, backbone.read_positions(Reading.of(self.labels, self.normalize)))


@final
@dataclass(frozen=True)
class LabelLoss(_OverLabels):
    """-log softmax(scores)[right label], where the score of a label is what the evaluation compares.

    Args:
        labels: token ids of the label words, as the evaluation scores them.
        normalize: how the log-probabilities of a label's tokens become its score: "sum", "mean" or "first".
        smoothing: share s of the loss that all labels have alike, (1 - s) CE + s mean_c(-log p_c).
    """

    def outputs(
        self, backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch
    ) -> Float[Tensor, "b 1 c"]:
        """Return the label scores, each row's up to a number."""
        return label_logits(backbone, prompt_batch, batch, self.labels, normalize=self.normalize)[:, None]

    def losses(self, outputs: Float[Tensor, "b 1 c"], batch: TextBatch) -> Float[Tensor, " b"]:
        """Return the cross entropy of each row's label, in nats."""
        return _cross_entropy(outputs, batch, self.smoothing)


@final
@dataclass(frozen=True)
class BothLoss(_OverLabels):
    """The mean of the loss over labels and the loss over tokens, both from the log-probabilities of the labels.

    Args:
        labels: token ids of the label words, with their end of sequence, which the loss over tokens teaches.
        normalize: "sum" or "mean", of the scores in the loss over labels.
        smoothing: as in `LabelLoss`, of the loss over labels alone.
    """

    def outputs(
        self, backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch
    ) -> Float[Tensor, "b 1 c"]:
        """Return the log-probability of each label, or its mean over the tokens."""
        return backbone.label_scores(prompt_batch, batch, self.labels, normalize=self.normalize)[:, None]

    def losses(self, outputs: Float[Tensor, "b 1 c"], batch: TextBatch) -> Float[Tensor, " b"]:
        """Return (CE over labels - mean log-probability of the right label's tokens) / 2."""
        scores, right = precise(outputs)[:, 0], classes_of(batch)
        of_right = scores.gather(1, right[:, None])[:, 0]
        if self.normalize == "sum":
            of_right = of_right / torch.tensor([len(label) for label in self.labels], device=right.device)[right]
        return (_cross_entropy(outputs, batch, self.smoothing) - of_right) / 2


@final
@dataclass(frozen=True)
class Weighted:
    """Another loss, in which the loss of a row is multiplied by the weight of its class.

    Args:
        loss: the other loss.
        weights: one per class.
    """

    loss: TaskLoss
    weights: tuple[float, ...]

    @property
    def over_labels(self) -> bool:
        """As the other loss."""
        return self.loss.over_labels

    def outputs(
        self, backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch
    ) -> Float[Tensor, "b l v"]:
        """Return the outputs of the other loss."""
        return self.loss.outputs(backbone, prompt_batch, batch)

    def losses(self, outputs: Float[Tensor, "b l v"], batch: TextBatch) -> Float[Tensor, " b"]:
        """Return the weighted loss of each row."""
        losses = self.loss.losses(outputs, batch)
        return losses * torch.tensor(self.weights, dtype=losses.dtype, device=losses.device)[classes_of(batch)]

    def positions(self, batch: TextBatch) -> Bool[Tensor, "b l"]:
        """Return the places of the other loss."""
        return self.loss.positions(batch)

    def wrong(self, outputs: Float[Tensor, "b l v"], batch: TextBatch) -> Bool[Tensor, " b"]:
        """As the other loss."""
        return self.loss.wrong(outputs, batch)

    def read_positions(self, backbone: AbstractBackbone, answers: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """As the other loss."""
        return self.loss.read_positions(backbone, answers)


def classes_of(batch: TextBatch) -> Tensor:
    """Return the right class of each row."""
    assert batch.classes is not None
    return batch.classes


def _cross_entropy(outputs: Float[Tensor, "b 1 c"], batch: TextBatch, smoothing: float) -> Float[Tensor, " b"]:
    scores = precise(outputs)[:, 0]
    return functional.cross_entropy(scores, classes_of(batch), reduction="none", label_smoothing=smoothing)
