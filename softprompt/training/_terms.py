"""The regularisers of a pass: which are active, which share a perturbed pass, and the context that they read."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..backbones import AbstractBackbone
from ..errors import BadInput
from ..inference.answers import label_ids
from ..losses import task_losses
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.trainable import stream_seed
from ..prompts.units import WordScale
from ..regularizers import DIVERGENCES, PerturbationContext, Regularizer, Share, Vocabulary, row_divergences
from ..tasks import Task

# Each regulariser of a prompt draws its noise from a random stream of its own, named by this word, its index and the
# step and pass. A change of the word changes every draw.
STREAM = "perturbation"
Noise = Callable[[bool], contextlib.AbstractContextManager[object]]


@final
@dataclass(frozen=True)
class Term:
    """A regulariser that is active in a pass.

    Args:
        owner: index of its prompt in the batch of prompts.
        regularizer: the regulariser.
        alpha: weight of its divergence at this step.
        share: share of the task loss that is computed on its perturbed rows at this step.
        seed: seed of its random numbers in this pass.
    """

    owner: int
    regularizer: Regularizer
    alpha: float
    share: float
    seed: int


def acting(
    regularizers: Sequence[Sequence[Regularizer]], seeds: Sequence[int], step: int, steps: int, number: int
) -> list[Term]:
    """Return the regularisers that are active in a pass. A regulariser is inactive until its delay is over.

    Args:
        regularizers: the regularisers of each prompt.
        seeds: the noise seed of each prompt.
        step: optimiser step, from 1.
        steps: number of optimiser steps of the run.
        number: index of the pass in its step.
    """
    terms = []
    for owner, (regularizers_of_prompt, seed) in enumerate(zip(regularizers, seeds, strict=True)):
        for index, regularizer in enumerate(regularizers_of_prompt):
            alpha, share = regularizer.weights(step, steps)
            if alpha or share:
                pass_seed = stream_seed(seed, f"{STREAM}/{index}/{step}/{number}")
                terms.append(Term(owner, regularizer, alpha, share, pass_seed))
    return terms


@final
@dataclass(frozen=True)
class Group:
    """Terms of the same structure, at most one per prompt. Their rows share the perturbed passes."""

    terms: tuple[Term, ...]

    @property
    def regularizer(self) -> Regularizer:
        """The regulariser of the first term, which has the same structure as all others."""
        return self.terms[0].regularizer

    @property
    def keeps_clean(self) -> bool:
        """Whether the divergence sends a gradient through the clean pass, so that its graph has to be kept."""
        name = self.regularizer.divergence
        return any(term.alpha for term in self.terms) and name in DIVERGENCES and not DIVERGENCES[name].stops_clean

    @property
    def needs_clean(self) -> bool:
        """Whether the group needs the clean answer or its gradient."""
        perturbation, has_divergence = self.regularizer.perturbation, self.regularizer.divergence in DIVERGENCES
        return (
            perturbation.wants_gradient
            or perturbation.wants_clean
            or (has_divergence and any(term.alpha for term in self.terms))
        )

    @property
    def passes(self) -> int:
        """Number of perturbed passes that enter the loss."""
        return self.regularizer.perturbation.passes

    def batches(self, context: PerturbationContext) -> Iterator[TextBatch]:
        """Yield the perturbed rows of each pass."""
        return self.regularizer.perturbation.batches(context, {t.owner: t.regularizer.perturbation for t in self.terms})

    def weights(self, p: int, like: Tensor) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """Return alpha and share of each of the p prompts; 0 for prompts outside the group."""
        table = torch.zeros(2, p, dtype=like.dtype)
        for term in self.terms:
            table[:, term.owner] = torch.tensor([term.alpha, term.share], dtype=like.dtype)
        alpha, share = table.to(like.device)
        return alpha, share


def grouped(terms: Sequence[Term]) -> list[Group]:
    """Group the terms that may share passes: those of the same structure and the same rank within their prompts.

    If a prompt has two terms of one structure, the first has rank 0 and the second has rank 1.
    """
    groups: dict[tuple[object, ...], list[Term]] = {}
    counts: Counter[tuple[object, ...]] = Counter()
    for term in terms:
        structure = term.regularizer.structure()
        rank = counts[term.owner, structure]
        counts[term.owner, structure] += 1
        groups.setdefault((rank, *structure), []).append(term)
    return [Group(tuple(members)) for members in groups.values()]


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
    """

    backbone: AbstractBackbone
    vocabulary: Vocabulary
    allowed: Bool[Tensor, "l v"] | None
    words: WordScale
    embeddings: Float[Tensor, "v e"]

    @classmethod
    def of(cls, backbone: AbstractBackbone, task: Task) -> "RegularizerContext":
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
                return self.backbone.logits(frozen, rows)

        def divergence(name: str, before: Tensor, after: Tensor, rows: TextBatch) -> Tensor:
            return self.divergence(group.regularizer, name, before, after, rows)

        return PerturbationContext(
            batch=batch,
            prompt_mask=prompt_batch.mask[batch.owner],
            logits=logits,
            losses=lambda outputs, rows: task_losses(outputs, _targets(rows)),
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
        targets = _targets(batch)
        if name not in DIVERGENCES:
            return task_losses(perturbed, targets)
        positions = torch.ones_like(targets, dtype=torch.bool) if targets.is_floating_point() else targets >= 0
        allowed = self.allowed if regularizer.over == "labels" else None
        return row_divergences(DIVERGENCES[name], clean, perturbed, positions, allowed)

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
            if perturbation.is_dropout and not (dropout and _has_dropout(self.backbone)):
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


def detached(prompt_batch: PromptBatch) -> PromptBatch:
    """Return the same batch of prompts without gradients."""
    return changed(prompt_batch, lambda values: values.detach())


def changed(prompt_batch: PromptBatch, change: Callable[[Tensor], Tensor]) -> PromptBatch:
    """Return the batch of prompts with `change` applied to every floating-point tensor."""
    return dataclasses.replace(prompt_batch, **{name: change(values) for name, values in numbers(prompt_batch)})


def numbers(prompt_batch: PromptBatch) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and value of each floating-point tensor of the batch, which are those that may have gradients."""
    for field in dataclasses.fields(prompt_batch):
        value = getattr(prompt_batch, field.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            yield field.name, value


def _targets(batch: TextBatch) -> Tensor:
    assert batch.targets is not None
    return batch.targets


def _allowed(labels: Sequence[Sequence[int]], v: int) -> Bool[Tensor, "l v"]:
    allowed = torch.zeros(max(map(len, labels)), v, dtype=torch.bool)
    for label in labels:
        allowed[range(len(label)), label] = True
    return allowed


def _has_dropout(backbone: AbstractBackbone) -> bool:
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
