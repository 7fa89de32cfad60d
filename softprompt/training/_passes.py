"""The passes of one step through the frozen model, each followed by its backward pass."""

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
    """The results for the unperturbed rows, with which the perturbed rows are compared.

    Args:
        task_losses: (1 - sum share) x mean loss of each prompt, in nats, without gradient. If the pass holds a part of
            the rows, it is the contribution of that part.
        logits: logits without a graph. They accumulate gradients if a divergence flows back through the clean pass.
        gradient: gradient of the task loss with respect to prompt and embedded text, if a perturbation wants it.
        kept: objective and logits whose graph `finish` still has to run backward.
    """

    task_losses: Float[Tensor, " p"]
    logits: Float[Tensor, "b l v"]
    gradient: Float[Tensor, "b s e"] | None = None
    kept: tuple[Tensor, Tensor] | None = None

    def finish(self) -> None:
        """Run the clean graph backward once, for the task loss and all divergences together."""
        if self.kept is not None:
            objective, logits = self.kept
            gradient = torch.zeros_like(logits) if self.logits.grad is None else self.logits.grad
            torch.autograd.backward([objective, logits], [torch.ones_like(objective), gradient])


@final
class Passes:
    """The passes of one step.

    Args:
        backbone: the frozen model.
        prompt_batch: the prompts, as leaves that accumulate the gradients.
        batch: rows of all prompts.
        p: number of prompts.
        scale: factor on every gradient.
        dropout_seed: seed of the frozen model's dropout, if it is on.
        rows: indices of the rows of these passes; None takes all rows. Means are always over all rows of a prompt.
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
        """Run the pass over the unperturbed rows. Its graph is freed at once unless a divergence needs it."""
        if not groups:
            losses = self._means(self._losses(self._logits(self.batch), self.batch), self.batch.owner)
            if check:
                check(self.backbone, losses)
            self._differentiate(losses)
            return CleanPass(losses.detach(), losses.new_zeros(0, 0, 0))
        weight = self._clean_weight(groups)
        if not weight.any() and not any(group.needs_clean for group in groups) and check is None:
            # FreeLB uses the perturbed rows only.
            return CleanPass(weight, weight.new_zeros(len(self.batch.ids), 0, 0))
        batch, delta = self.batch, None
        if any(group.regularizer.perturbation.wants_gradient for group in groups):
            batch, delta = self._with_delta()
        logits = self._logits(batch)
        means = self._means(self._losses(logits, batch), batch.owner)
        losses = weight.to(means) * means
        if check:
            check(self.backbone, losses)
        if not any(group.keeps_clean for group in groups) and (delta is None or bool(weight.all())):
            self._differentiate(losses)
            return CleanPass(losses.detach(), logits.detach(), None if delta is None else delta.grad)
        gradient = None if delta is None else torch.autograd.grad(means.sum(), delta, retain_graph=True)[0]
        return CleanPass(
            losses.detach(), logits.detach().requires_grad_(), gradient, (self.scale * losses.sum(), logits)
        )

    def perturbed(
        self, group: Group, clean: CleanPass, regularizer_context: RegularizerContext
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """Run the passes of a group.

        Returns:
            share x task loss and alpha x divergence of each prompt, without gradient.
        """
        rows = self._rows(group)
        batch, answer = (self.batch, clean.logits) if rows is None else (self.batch.select(rows), clean.logits[rows])
        gradient = clean.gradient if rows is None or clean.gradient is None else clean.gradient[rows]
        regularizer = group.regularizer
        alpha, share = (x / group.passes for x in group.weights(self.p, clean.task_losses))
        task, divergence = torch.zeros_like(alpha), torch.zeros_like(alpha)
        if not len(batch.ids):
            return task, divergence
        context = regularizer_context.context(
            group, self.prompt_batch, batch, answer.detach(), gradient, self._noise, self._share_of(rows)
        )
        for perturbed in group.batches(context):
            logits = self._logits(perturbed, anew=regularizer.perturbation.is_dropout)
            losses = share * self._means(self._losses(logits, perturbed), batch.owner) if share.any() else share
            weighted = alpha
            if alpha.any():
                divergences = regularizer_context.divergence(
                    regularizer, regularizer.divergence, answer, logits, perturbed
                )
                weighted = alpha * self._means(divergences, batch.owner)
            self._differentiate(losses + weighted)
            task, divergence = task + losses.detach(), divergence + weighted.detach()
        return task, divergence

    def _clean_weight(self, groups: Sequence[Group]) -> Float[Tensor, " p"]:
        """Return 1 - sum of shares for each prompt."""
        weight = torch.ones(self.p, device=self.batch.ids.device)
        return weight - sum((group.weights(self.p, weight)[1] for group in groups), torch.zeros_like(weight))

    def _rows(self, group: Group) -> Bool[Tensor, " b"] | None:
        """Return a mask of the rows of the group's prompts, or None if these are all rows."""
        if len(group.terms) == self.p:
            return None
        owners = torch.tensor([term.owner for term in group.terms], device=self.batch.owner.device)
        return torch.isin(self.batch.owner, owners)

    def _share_of(self, rows: Bool[Tensor, " b"] | None) -> Share | None:
        """Return all rows of the step if these passes hold only a part of them, so that random numbers match."""
        if self.rows is None:
            return None
        chosen = self.rows if rows is None else self.rows[rows]
        return Share(self.whole, self.prompt_batch.mask[self.whole.owner], chosen)

    def _with_delta(self) -> tuple[TextBatch, Float[Tensor, "b s e"]]:
        """Return the rows with a delta of 0 added, and the delta, which requires a gradient."""
        n, e = self.prompt_batch.vectors.shape[1:]
        delta = torch.zeros(len(self.batch.ids), n + self.batch.ids.shape[1], e, device=self.batch.ids.device)
        delta.requires_grad_()
        return dataclasses.replace(self.batch, prompt_delta=delta[:, :n], text_delta=delta[:, n:]), delta

    def _logits(self, batch: TextBatch, anew: bool = False) -> Float[Tensor, "b l v"]:
        with self._noise(anew):
            return self.backbone.logits(self.prompt_batch, batch)

    def _noise(self, anew: bool) -> contextlib.AbstractContextManager[object]:
        """Seed the frozen model's dropout inside the `with` block: with the same draw in each pass, or a new one."""
        if self.dropout_seed is None:
            return contextlib.nullcontext()
        return seeded(self.dropout_seed + anew, self.backbone.device)

    def _losses(self, logits: Float[Tensor, "b l v"], batch: TextBatch) -> Float[Tensor, " b"]:
        assert batch.targets is not None
        return task_losses(logits, batch.targets)

    def _means(self, values: Float[Tensor, " b"], owner: Int[Tensor, " b"]) -> Float[Tensor, " p"]:
        """Return the contribution of these rows to each prompt's mean over all its rows; 0 for one without rows."""
        sums = torch.zeros(self.p, dtype=values.dtype, device=values.device).index_add(0, owner, values)
        return sums / self.counts

    def _differentiate(self, losses: Float[Tensor, " p"]) -> None:
        if losses.requires_grad:
            (self.scale * losses.sum()).backward()
