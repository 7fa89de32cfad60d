"""The regularisers of a pass: which are active, and which share a perturbed pass."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ...prompts.batch import TextBatch
from ...regularizers import DIVERGENCES, PerturbationContext, Regularizer, pass_seed


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
                terms.append(Term(owner, regularizer, alpha, share, pass_seed(seed, index, step, number)))
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
