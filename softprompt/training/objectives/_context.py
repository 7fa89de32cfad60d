"""What the regularisers of a run read of its backbone and task, and the divergences that they add."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...backbones import AbstractBackbone
from ...errors import BadInput
from ...inference.decoding import label_ids
from ...prompts.batch import PromptBatch, TextBatch
from ...prompts.units import WordScale
from ...regularizers import DIVERGENCES, PerturbationContext, Regularizer, Share, Vocabulary, row_divergences
from ...tasks import Task
from .._leaves import detached
from ._task_loss import TOKENS, TaskLoss
from ._terms import Group, Term

Noise = Callable[[bool], contextlib.AbstractContextManager[object]]


@final
@dataclass(frozen=True)
class RegularizerContext:
    """What the regularisers read of a backbone and a task. It is computed once per run.

    Args:
        backbone: the frozen model.
        vocabulary: the tokenizer's vocabulary, in which the task's label words are guarded.
        allowed: the tokens that label words have at each position; None where there are no label words.
        words: the size of the word vectors.
        embeddings: the word vectors.
        loss: the task loss, whose outputs the divergences compare.
    """

    backbone: AbstractBackbone
    vocabulary: Vocabulary
    allowed: Bool[Tensor, "l v"] | None
    words: WordScale
    embeddings: Float[Tensor, "v e"]
    loss: TaskLoss = TOKENS

    @classmethod
    def of(cls, backbone: AbstractBackbone, task: Task, loss: TaskLoss = TOKENS) -> "RegularizerContext":
        """Compute the context of this backbone and task."""
        table = backbone.word_vectors
        has_label_words = backbone.answers != "linear-head" and bool(task.labels)
        labels = label_ids(backbone, task) if has_label_words else []
        return cls(
            backbone=backbone,
            vocabulary=Vocabulary(backbone.tokenizer, len(table), labels),
            allowed=_allowed(labels, len(table)).to(backbone.device) if labels else None,
            words=WordScale.of(table),
            embeddings=table,
            loss=loss,
        )

    def context(
        self,
        group: Group,
        prompt_batch: PromptBatch,
        batch: TextBatch,
        clean: Float[Tensor, "b l c"],
        gradient: Float[Tensor, "b s e"] | None,
        noise: Noise,
        share: Share | None = None,
    ) -> PerturbationContext:
        """Return the context of a group's perturbation: its rows, and a model that sends no gradient to the prompts."""
        frozen = detached(prompt_batch)

        def logits(rows: TextBatch) -> Tensor:
            with noise(False):
                return self.loss.outputs(self.backbone, frozen, rows)

        def divergence(name: str, before: Tensor, after: Tensor, rows: TextBatch) -> Tensor:
            return self.divergence(group.regularizer, name, before, after, rows)

        return PerturbationContext(
            batch=batch,
            prompt_mask=prompt_batch.mask[batch.owner],
            logits=logits,
            losses=self.loss.losses,
            wrong=self.loss.wrong,
            divergence=divergence,
            clean=clean,
            gradient=gradient,
            generators={term.owner: torch.Generator().manual_seed(term.seed) for term in group.terms},
            words=self.words,
            vocabulary=self.vocabulary,
            embeddings=self.embeddings,
            share=share,
        )

    def divergence(
        self, regularizer: Regularizer, name: str, clean: Tensor, perturbed: Tensor, batch: TextBatch
    ) -> Float[Tensor, " b"]:
        """Return the divergence of each row, or the task loss of the perturbed row for the name "ce"."""
        if name not in DIVERGENCES:
            return self.loss.losses(perturbed, batch)
        allowed = self.allowed if regularizer.over == "labels" and not self.loss.over_labels else None
        return row_divergences(DIVERGENCES[name], clean, perturbed, self.loss.positions(batch), allowed)

    def check(
        self, regularizers: Sequence[Regularizer], task: Task, batch: TextBatch, *, dropout: bool, m: int
    ) -> None:
        """Refuse regularisers that would silently have no effect on this task and backbone.

        Args:
            regularizers: the regularisers of one prompt.
            task: the task.
            batch: some training rows, owned by prompt 0.
            dropout: whether the frozen model's dropout is on.
            m: number of vectors of the prompt.

        Raises:
            BadInput: a regulariser has no effect; the message says what to do.
        """
        for regularizer in regularizers:
            perturbation = regularizer.perturbation
            if self.backbone.answers == "linear-head" and task.answer == "number" and regularizer.alpha:
                _refuse_divergence_of_numbers(regularizer)
            if regularizer.over == "labels" and self.allowed is None:
                raise BadInput(f"regulariser: task {task.name!r} has no label words; leave over=labels out")
            if perturbation.is_dropout and not (dropout and has_dropout(self.backbone)):
                raise BadInput(
                    "r-drop compares two draws of the frozen model's dropout, and there is none; "
                    "give --backbone-dropout, and a model that has any"
                )
            prompt_batch = PromptBatch.stack([self.embeddings[:m].detach()])
            group = Group((Term(0, regularizer, regularizer.alpha, regularizer.share, 0),))
            no_logits = torch.zeros(len(batch.ids), 0, 0, device=batch.ids.device)
            perturbation.check(
                self.context(group, prompt_batch, batch, no_logits, None, lambda anew: contextlib.nullcontext())
            )


def _allowed(labels: Sequence[Sequence[int]], v: int) -> Bool[Tensor, "l v"]:
    allowed = torch.zeros(max(map(len, labels)), v, dtype=torch.bool)
    for label in labels:
        allowed[range(len(label)), label] = True
    return allowed


def has_dropout(backbone: AbstractBackbone) -> bool:
    """Whether a frozen model has dropout that can be on during training."""
    # In a model that also reads images, or that joins two models, the rates are those of the text part.
    configs = (backbone.model.config, backbone.stack.config.get_text_config())
    rates = [value for config in configs for name, value in config.to_dict().items() if "drop" in name]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _refuse_divergence_of_numbers(regularizer: Regularizer) -> None:
    if regularizer.divergence in DIVERGENCES and regularizer.divergence != "squared-error":
        raise BadInput(
            f"regulariser: {regularizer.divergence} compares distributions, this task's answer is one number and it "
            "would always be 0; give divergence=squared-error or divergence=ce"
        )
