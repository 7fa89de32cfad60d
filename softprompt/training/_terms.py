"""Which regularisers act in a pass, which of them share a perturbed pass, and what those passes are made of."""

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
from ..losses import task_losses
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.trainable import stream_seed
from ..prompts.units import WordScale
from ..regularizers import DIVERGENCES, PerturbationContext, Regularizer, Share, Vocabulary, row_divergences
from ..tasks import Task

# The pass of a prompt's own regulariser number so much draws from the stream of this name.
STREAM = "perturbation"
Noise = Callable[[bool], contextlib.AbstractContextManager[object]]


@final
@dataclass(frozen=True)
class Term:
    """A regulariser that acts in a pass.

    Args:
        owner: of the rows, in the batch of prompts.
        regularizer: which.
        alpha: weight of its divergence at this step.
        share: of the task loss that its rows have at this step.
        seed: of its random numbers in this pass.
    """

    owner: int
    regularizer: Regularizer
    alpha: float
    share: float
    seed: int


def acting(
    regularizers: Sequence[Sequence[Regularizer]], seeds: Sequence[int], step: int, steps: int, number: int
) -> list[Term]:
    """The regularisers that act at optimiser step `step` in its pass `number`; none before their delay is over.

    Args:
        regularizers: of each prompt.
        seeds: of each prompt's noise.
        step: from 1.
        steps: in all.
        number: of the pass in its step.
    """
    found = []
    for owner, (own, seed) in enumerate(zip(regularizers, seeds, strict=True)):
        for place, one in enumerate(own):
            alpha, share = one.weights(step, steps)
            if alpha or share:
                drawn = stream_seed(seed, f"{STREAM}/{place}/{step}/{number}")
                found.append(Term(owner, one, alpha, share, drawn))
    return found


@final
@dataclass(frozen=True)
class Group:
    """Terms of one structure, at most one a prompt: their rows share the perturbed passes."""

    terms: tuple[Term, ...]

    @property
    def regularizer(self) -> Regularizer:
        """The first one's, whose structure is that of all."""
        return self.terms[0].regularizer

    @property
    def keeps_clean(self) -> bool:
        """Whether its divergence sends a gradient through the clean pass."""
        name = self.regularizer.divergence
        return any(term.alpha for term in self.terms) and name in DIVERGENCES and not DIVERGENCES[name].stops_clean

    @property
    def needs_clean(self) -> bool:
        """Whether it needs the clean answer, or its gradient, at all."""
        perturbation, measured = self.regularizer.perturbation, self.regularizer.divergence in DIVERGENCES
        return (
            perturbation.wants_gradient or perturbation.wants_clean or (measured and any(t.alpha for t in self.terms))
        )

    @property
    def passes(self) -> int:
        """Perturbed passes that count."""
        return self.regularizer.perturbation.passes

    def batches(self, context: PerturbationContext) -> Iterator[TextBatch]:
        """The perturbed rows of each pass."""
        return self.regularizer.perturbation.batches(context, {t.owner: t.regularizer.perturbation for t in self.terms})

    def weights(self, p: int, like: Tensor) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """Alpha and share of each of p prompts, 0 for the others."""
        table = torch.zeros(2, p, dtype=like.dtype)
        for term in self.terms:
            table[:, term.owner] = torch.tensor([term.alpha, term.share], dtype=like.dtype)
        alpha, share = table.to(like.device)
        return alpha, share


def grouped(terms: Sequence[Term]) -> list[Group]:
    """Terms that may share passes; the second of one structure in a prompt shares with other second ones."""
    found: dict[tuple[object, ...], list[Term]] = {}
    seen: Counter[tuple[object, ...]] = Counter()
    for term in terms:
        structure = term.regularizer.structure()
        rank = seen[term.owner, structure]
        seen[term.owner, structure] += 1
        found.setdefault((rank, *structure), []).append(term)
    return [Group(tuple(members)) for members in found.values()]


@final
@dataclass(frozen=True)
class RegularizerContext:
    """What regularisers need of a backbone and a task, found once for a run.

    Args:
        backbone: frozen.
        vocabulary: of its tokenizer, the task's label words guarded.
        allowed: tokens that label words have at each position; None where there are none.
        words: how large its word vectors are.
        embeddings: the word vectors.
    """

    backbone: AbstractBackbone
    vocabulary: Vocabulary
    allowed: Bool[Tensor, "l v"] | None
    words: WordScale
    embeddings: Float[Tensor, "v e"]

    @classmethod
    def of(cls, backbone: AbstractBackbone, task: Task) -> "RegularizerContext":
        """Of this backbone and task."""
        table = backbone.word_vectors
        spoken = backbone.answers != "linear-head" and bool(task.labels)
        labels = backbone.encode_distinct(task.labels) if spoken else []
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
        """What the group's perturbation sees: its rows, and a model through which no gradient reaches a prompt."""
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
            losses=lambda found, rows: task_losses(found, _targets(rows)),
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
        """The divergence of each row, or the task loss of its perturbed form."""
        targets = _targets(batch)
        if name not in DIVERGENCES:
            return task_losses(perturbed, targets)
        positions = torch.ones_like(targets, dtype=torch.bool) if targets.is_floating_point() else targets >= 0
        allowed = self.allowed if regularizer.over == "labels" else None
        return row_divergences(DIVERGENCES[name], clean, perturbed, positions, allowed)

    def check(
        self, regularizers: Sequence[Regularizer], task: Task, batch: TextBatch, *, dropout: bool, m: int
    ) -> None:
        """Refuse regularisers that would be quietly off, or measure nothing, on this task and backbone.

        Args:
            regularizers: of one prompt.
            task: the task.
            batch: some training rows, owned by prompt 0.
            dropout: whether the frozen model's dropout is on.
            m: vectors of the prompt.

        Raises:
            BadInput: with what to do.
        """
        for one in regularizers:
            perturbation = one.perturbation
            if self.backbone.answers == "linear-head" and task.answer == "number" and one.alpha:
                _refuse_divergence_of_numbers(one)
            if one.over == "labels" and self.allowed is None:
                raise BadInput(f"regulariser: task {task.name!r} has no label words; leave over=labels out")
            if perturbation.is_dropout and not (dropout and _has_dropout(self.backbone)):
                raise BadInput(
                    "r-drop compares two draws of the frozen model's dropout, and there is none; "
                    "give --backbone-dropout, and a model that has any"
                )
            prompt_batch = PromptBatch.stack([self.embeddings[:m].detach()])
            group = Group((Term(0, one, one.alpha, one.share, 0),))
            nothing = torch.zeros(len(batch.ids), 0, 0, device=batch.ids.device)
            perturbation.check(
                self.context(group, prompt_batch, batch, nothing, None, lambda anew: contextlib.nullcontext())
            )


def detached(prompt_batch: PromptBatch) -> PromptBatch:
    """The same batch of prompts without gradients."""
    return changed(prompt_batch, lambda values: values.detach())


def changed(prompt_batch: PromptBatch, change: Callable[[Tensor], Tensor]) -> PromptBatch:
    """The batch of prompts with every tensor of numbers changed."""
    return dataclasses.replace(prompt_batch, **{name: change(values) for name, values in numbers(prompt_batch)})


def numbers(prompt_batch: PromptBatch) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the batch of prompts that may have gradients, by name."""
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
    # Beside images, or where two models are joined to one, the rates are those of the part that reads.
    configs = (backbone.model.config, backbone.stack.config.get_text_config())
    rates = [value for config in configs for name, value in config.to_dict().items() if "drop" in name]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _refuse_divergence_of_numbers(one: Regularizer) -> None:
    if one.divergence in DIVERGENCES and one.divergence != "squared-error":
        raise BadInput(
            f"regulariser: {one.divergence} compares distributions, this task's answer is one number and it would "
            "always be 0; give divergence=squared-error or divergence=ce"
        )
