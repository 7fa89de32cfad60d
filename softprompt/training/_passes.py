"""The passes of one step through the frozen model, each followed by its backward pass: gradients gather at the batch of prompts."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..backbones import AbstractBackbone
from ..losses import task_losses
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.trainable import seeded
from ..regularizers import Share
from ._terms import Group, RegularizerContext


@final
@dataclass(frozen=True)
class CleanPass:
    """The unperturbed rows: what perturbed ones are held against.

    Args:
        task_losses: of each prompt, (1 - sum share) x mean loss; in nats, without gradient; of a part of the rows its
            share in that.
        logits: without graph; they gather gradients where a divergence goes back through the clean pass.
        gradient: of the task loss with respect to prompt and embedded text, where an ascent starts from it.
        kept: objective and logits whose graph is still to be gone through.
    """

    task_losses: Float[Tensor, " p"]
    logits: Float[Tensor, "b l v"]
    gradient: Float[Tensor, "b s e"] | None = None
    kept: tuple[Tensor, Tensor] | None = None

    def finish(self) -> None:
        """Through the clean graph once, for the task loss and for all divergences."""
        if self.kept is not None:
            objective, logits = self.kept
            gradient = torch.zeros_like(logits) if self.logits.grad is None else self.logits.grad
            torch.autograd.backward([objective, logits], [torch.ones_like(objective), gradient])


@final
class Passes:
    """The passes of one step.

    Args:
        backbone: frozen.
        prompt_batch: the prompts; leaves, at which gradients gather.
        batch: rows of all prompts.
        p: prompts.
        scale: of every gradient.
        dropout_seed: of the frozen model's dropout, if it is on.
        rows: which of the rows are gone through; None for all. Means are over all.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        prompt_batch: PromptBatch,
        batch: TextBatch,
        p: int,
        scale: float,
        dropout_seed: int | None,
        rows: Int[Tensor, " k"] | None = None,
    ):
        self.backbone, self.prompt_batch, self.p, self.scale = backbone, prompt_batch, p, scale
        self.dropout_seed = dropout_seed
        self.whole, self.rows = batch, rows
        self.batch = batch if rows is None else batch.select(rows).trimmed()
        self.counts = torch.bincount(batch.owner, minlength=p).clamp(min=1)

    def clean(
        self, groups: Sequence[Group], check: Callable[[AbstractBackbone, Tensor], None] | None = None
    ) -> CleanPass:
        """The pass over the rows as they are; its graph is freed at once unless a divergence needs it."""
        if not groups:
            losses = self._means(self._losses(self._logits(self.batch), self.batch), self.batch.owner)
            if check:
                check(self.backbone, losses)
            self._differentiate(losses)
            return CleanPass(losses.detach(), losses.new_zeros(0, 0, 0))
        weight = self._clean_weight(groups)
        if not weight.any() and not any(group.needs_clean for group in groups) and check is None:
            # FreeLB: the perturbed rows alone.
            return CleanPass(weight, weight.new_zeros(len(self.batch.ids), 0, 0))
        batch, shift = self.batch, None
        if any(group.regularizer.perturbation.wants_gradient for group in groups):
            batch, shift = self._with_delta()
        logits = self._logits(batch)
        means = self._means(self._losses(logits, batch), batch.owner)
        losses = weight.to(means) * means
        if check:
            check(self.backbone, losses)
        if not any(group.keeps_clean for group in groups) and (shift is None or bool(weight.all())):
            self._differentiate(losses)
            return CleanPass(losses.detach(), logits.detach(), None if shift is None else shift.grad)
        gradient = None if shift is None else torch.autograd.grad(means.sum(), shift, retain_graph=True)[0]
        return CleanPass(
            losses.detach(), logits.detach().requires_grad_(), gradient, (self.scale * losses.sum(), logits)
        )

    def perturbed(
        self, group: Group, clean: CleanPass, regularizer_context: RegularizerContext
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """The passes of a group; (share x task loss, alpha x divergence) of each prompt, without gradient."""
        rows = self._rows(group)
        batch, answer = (self.batch, clean.logits) if rows is None else (self.batch.select(rows), clean.logits[rows])
        gradient = clean.gradient if rows is None or clean.gradient is None else clean.gradient[rows]
        alpha, share = (x / group.passes for x in group.weights(self.p, clean.task_losses))
        task, divergence = torch.zeros_like(alpha), torch.zeros_like(alpha)
        if not len(batch.ids):
            return task, divergence
        context = regularizer_context.context(
            group, self.prompt_batch, batch, answer.detach(), gradient, self._noise, self._share_of(rows)
        )
        for rows_now in group.batches(context):
            logits = self._logits(rows_now, anew=group.regularizer.perturbation.is_dropout)
            losses = share * self._means(self._losses(logits, rows_now), batch.owner) if share.any() else share
            apart = alpha
            if alpha.any():
                one = group.regularizer
                apart = alpha * self._means(
                    regularizer_context.divergence(one, one.divergence, answer, logits, rows_now), batch.owner
                )
            self._differentiate(losses + apart)
            task, divergence = task + losses.detach(), divergence + apart.detach()
        return task, divergence

    def _clean_weight(self, groups: Sequence[Group]) -> Float[Tensor, " p"]:
        """1 - sum of shares, of each prompt."""
        weight = torch.ones(self.p, device=self.batch.ids.device)
        return weight - sum((group.weights(self.p, weight)[1] for group in groups), torch.zeros_like(weight))

    def _rows(self, group: Group) -> Bool[Tensor, " b"] | None:
        """Rows of the group's prompts; None where they are all."""
        if len(group.terms) == self.p:
            return None
        owners = torch.tensor([term.owner for term in group.terms], device=self.batch.owner.device)
        return torch.isin(self.batch.owner, owners)

    def _share_of(self, rows: Bool[Tensor, " b"] | None) -> Share | None:
        """All rows of the pass, with which a part of them draws its random numbers."""
        if self.rows is None:
            return None
        chosen = self.rows if rows is None else self.rows[rows]
        return Share(self.whole, self.prompt_batch.mask[self.whole.owner], chosen)

    def _with_delta(self) -> tuple[TextBatch, Float[Tensor, "b s e"]]:
        """The rows shifted by 0, which asks for its gradient."""
        n, e = self.prompt_batch.vectors.shape[1:]
        shift = torch.zeros(len(self.batch.ids), n + self.batch.ids.shape[1], e, device=self.batch.ids.device)
        shift.requires_grad_()
        return dataclasses.replace(self.batch, prompt_delta=shift[:, :n], text_delta=shift[:, n:]), shift

    def _logits(self, batch: TextBatch, anew: bool = False) -> Float[Tensor, "b l v"]:
        with self._noise(anew):
            return self.backbone.logits(self.prompt_batch, batch)

    def _noise(self, anew: bool) -> contextlib.AbstractContextManager[object]:
        """The frozen model's dropout: the same draw in each pass, or another."""
        if self.dropout_seed is None:
            return contextlib.nullcontext()
        return seeded(self.dropout_seed + anew, self.backbone.device)

    def _losses(self, logits: Float[Tensor, "b l v"], batch: TextBatch) -> Float[Tensor, " b"]:
        assert batch.targets is not None
        return task_losses(logits, batch.targets)

    def _means(self, values: Float[Tensor, " b"], owner: Int[Tensor, " b"]) -> Float[Tensor, " p"]:
        """Each prompt's share in the mean over all its rows; 0 for a prompt without rows here."""
        sums = torch.zeros(self.p, dtype=values.dtype, device=values.device).index_add(0, owner, values)
        return sums / self.counts

    def _differentiate(self, losses: Float[Tensor, " p"]) -> None:
        if losses.requires_grad:
            (self.scale * losses.sum()).backward()
