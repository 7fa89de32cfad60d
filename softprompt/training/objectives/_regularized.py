"""The regularised objective: around the plain one, the perturbed passes of each active regulariser."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...prompts.batch import TextBatch
from ...regularizers import Share
from ._context import RegularizerContext
from ._objective import Check, Plain
from ._passes import Passes
from ._terms import Group, Term, grouped

PerPrompt = Float[Tensor, " p"]


@final
class Regularized:
    """(1 - sum share) CE(clean) + sum (share CE(perturbed) + alpha D(clean, perturbed)), summed over the regularisers.

    CE is the task loss of the plain objective, and D compares its outputs. An objective holds for one pass of a step,
    because the terms change from pass to pass.

    Args:
        plain: the objective without regularisers.
        terms: the active regularisers; without any this is the plain objective.
        context: what the regularisers read of backbone and task.
    """

    def __init__(self, plain: Plain, terms: Sequence[Term], context: RegularizerContext):
        self.plain, self.context, self.groups = plain, context, grouped(terms)

    def backward(self, passes: Passes, check: Check | None = None) -> tuple[PerPrompt, PerPrompt]:
        """As in the contract: a clean pass, and then the passes of each group of terms."""
        if not self.groups:
            return self.plain.backward(passes, check)
        clean = self._clean(passes, check)
        losses, divergences = clean.task_losses, torch.zeros_like(clean.task_losses)
        for group in self.groups:
            task, divergence = self._perturbed(passes, group, clean)
            losses, divergences = losses + task, divergences + divergence
        clean.finish()
        return losses, divergences

    def _clean(self, passes: Passes, check: Check | None) -> "CleanPass":
        """Run the pass over the unperturbed rows. Its graph is freed at once unless a divergence needs it."""
        groups, loss = self.groups, self.plain.loss
        weight = _clean_weight(passes, groups)
        if not weight.any() and not any(group.needs_clean for group in groups) and check is None:
            # FreeLB uses the perturbed rows only.
            return CleanPass(weight, weight.new_zeros(len(passes.batch.ids), 0, 0))
        batch, delta = passes.batch, None
        if any(group.regularizer.perturbation.wants_gradient for group in groups):
            batch, delta = _with_delta(passes)
        outputs = passes.outputs(loss, batch)
        means = passes.means(loss.losses(outputs, batch), batch.owner)
        losses = weight.to(means) * means
        if check:
            check(losses)
        if not any(group.keeps_clean for group in groups) and (delta is None or bool(weight.all())):
            passes.differentiate(losses)
            return CleanPass(losses.detach(), outputs.detach(), None if delta is None else delta.grad)
        gradient = None if delta is None else torch.autograd.grad(means.sum(), delta, retain_graph=True)[0]
        kept = (losses.sum(), outputs)
        return CleanPass(losses.detach(), outputs.detach().requires_grad_(), gradient, kept)

    def _perturbed(self, passes: Passes, group: Group, clean: "CleanPass") -> tuple[PerPrompt, PerPrompt]:
        """Run the passes of a group; returns share x task loss and alpha x divergence, without gradient."""
        rows, loss, regularizer = _rows(passes, group), self.plain.loss, group.regularizer
        batch, answer, gradient = clean.of(passes.batch, rows)
        alpha, share = (x / group.passes for x in group.weights(passes.p, clean.task_losses))
        task, divergence = torch.zeros_like(alpha), torch.zeros_like(alpha)
        if not len(batch.ids):
            return task, divergence
        context = self.context.context(
            group, passes.prompt_batch, batch, answer.detach(), gradient, passes.noise, _share_of(passes, rows)
        )
        for perturbed in group.batches(context):
            outputs = passes.outputs(loss, perturbed, anew=regularizer.perturbation.is_dropout)
            losses = share * passes.means(loss.losses(outputs, perturbed), batch.owner) if share.any() else share
            weighted = alpha
            if alpha.any():
                apart = self.context.divergence(regularizer, regularizer.divergence, answer, outputs, perturbed)
                weighted = alpha * passes.means(apart, batch.owner)
            passes.differentiate(losses + weighted)
            task, divergence = task + losses.detach(), divergence + weighted.detach()
        return task, divergence


@final
@dataclass(frozen=True)
class CleanPass:
    """The results for the unperturbed rows, with which the perturbed rows are compared.

    Args:
        task_losses: (1 - sum share) x mean loss of each prompt, in nats, without gradient. If the pass holds a part of
            the rows, it is the contribution of that part.
        outputs: outputs without a graph. They accumulate gradients if a divergence flows back through the clean pass.
        gradient: gradient of the task loss with respect to prompt and embedded text, if a perturbation wants it.
        kept: objective and outputs whose graph `finish` still has to run backward.
    """

    task_losses: PerPrompt
    outputs: Float[Tensor, "b l v"]
    gradient: Float[Tensor, "b s e"] | None = None
    kept: tuple[Tensor, Tensor] | None = None

    def of(self, batch: TextBatch, rows: Tensor | None) -> tuple[TextBatch, Tensor, Tensor | None]:
        """Return the rows of a mask with their outputs and gradients; None takes all rows."""
        if rows is None:
            return batch, self.outputs, self.gradient
        return batch.select(rows), self.outputs[rows], None if self.gradient is None else self.gradient[rows]

    def finish(self) -> None:
        """Run the clean graph backward once, for the task loss and all divergences together."""
        if self.kept is not None:
            objective, outputs = self.kept
            gradient = torch.zeros_like(outputs) if self.outputs.grad is None else self.outputs.grad
            torch.autograd.backward([objective, outputs], [torch.ones_like(objective), gradient])


def _clean_weight(passes: Passes, groups: Sequence[Group]) -> PerPrompt:
    """Return 1 - sum of shares for each prompt."""
    weight = torch.ones(passes.p, device=passes.batch.ids.device)
    return weight - sum((group.weights(passes.p, weight)[1] for group in groups), torch.zeros_like(weight))


def _rows(passes: Passes, group: Group) -> Bool[Tensor, " b"] | None:
    """Return a mask of the rows of the group's prompts, or None if these are all rows."""
    if len(group.terms) == passes.p:
        return None
    owner = passes.batch.owner
    return torch.isin(owner, torch.tensor([term.owner for term in group.terms], device=owner.device))


def _share_of(passes: Passes, rows: Bool[Tensor, " b"] | None) -> Share | None:
    """Return all rows of the step if these passes hold only a part of them, so that random numbers match."""
    if passes.rows is None:
        return None
    chosen = passes.rows if rows is None else passes.rows[rows]
    return Share(passes.whole, passes.prompt_batch.mask[passes.whole.owner], chosen)


def _with_delta(passes: Passes) -> tuple[TextBatch, Float[Tensor, "b s e"]]:
    """Return the rows with a delta of 0 added, and the delta, which requires a gradient."""
    batch, (n, e) = passes.batch, passes.prompt_batch.vectors.shape[1:]
    delta = torch.zeros(len(batch.ids), n + batch.ids.shape[1], e, device=batch.ids.device)
    delta.requires_grad_()
    return dataclasses.replace(batch, prompt_delta=delta[:, :n], text_delta=delta[:, n:]), delta
