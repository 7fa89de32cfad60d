"""The gradients of one step for all prompts of a fleet: a clean pass, and one for each perturbation that acts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones import AbstractBackbone
from ..errors import NotTrainable
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.trainable import TrainablePrompt, stack_prompts, stream_seed
from ._passes import Passes
from ._terms import Group, RegularizerContext, Term, changed, grouped, numbers


@dataclass(frozen=True)
class PassResult:
    """What a pass showed, one number a prompt.

    Args:
        losses: mean task loss, in nats.
        norms: mean norm of the prompt vectors (EPT, equation 4), of a deep prompt those before the first layer: the
            others stand beside states, not words.
        divergences: sum of alpha x divergence over the prompt's regularisers; 0 without any.
    """

    losses: Float[Tensor, " p"]
    norms: Float[Tensor, " p"]
    divergences: Float[Tensor, " p"]


def backward(
    backbone: AbstractBackbone,
    trainables: Sequence[TrainablePrompt],
    batch: TextBatch,
    seeds: Sequence[int],
    *,
    scale: float = 1.0,
    check: bool = False,
    terms: Sequence[Term] = (),
    regularizer_context: RegularizerContext | None = None,
    dropout_seed: int | None = None,
    parts: Sequence[Sequence[int]] = (),
) -> PassResult:
    """Add the gradients of `scale x sum_k mean_{rows of k} loss` to the prompts.

    Summed over prompts, so that a prompt's gradient does not depend on who shares its pass. A regularised prompt's loss is
    (1 - sum share) CE(clean) + sum (share CE(perturbed) + alpha D(clean, perturbed)), summed over its regularisers.

    Args:
        backbone: the frozen model.
        trainables: the prompts, in the order of `batch.owner`.
        batch: rows of all prompts.
        seeds: for a reparameterisation's dropout, one a prompt.
        scale: 1 / number of passes in an optimiser step.
        check: refuse a backbone through which no gradient, or only a part of it, arrives; on the first step only.
        terms: the regularisers that act, if any do.
        regularizer_context: what they need.
        dropout_seed: of the frozen model's dropout, if it is on: perturbed rows meet the same draw, where all prompts
            are perturbed alike.
        parts: rows that share a pass, to take up less memory at once: the gradients are the same, but for the frozen
            model's dropout, which each part draws anew. None or one is all rows in one pass.

    Raises:
        NotTrainable: no gradient reached the prompt vectors, or a layer passed none on.
    """
    whole = stack_prompts(trainables, seeds)
    # Gradients gather at the batch of prompts and go through the reparameterisations once, however many passes there are.
    prompt_batch = leaves(whole)
    groups = grouped(terms)
    chosen = [torch.tensor(rows, device=batch.ids.device) for rows in parts] if len(parts) > 1 else [None]
    found = []
    for number, rows in enumerate(chosen):
        seed = stream_seed(dropout_seed, f"part/{number}") if dropout_seed is not None and number else dropout_seed
        passes = Passes(backbone, prompt_batch, batch, len(trainables), scale, seed, rows)
        found.append(_losses_of(passes, groups, regularizer_context, _refuse_gaps if check and not number else None))
    losses, divergences = (torch.stack(values).sum(0) for values in zip(*found, strict=True))
    _pull_back(whole, prompt_batch)
    if check:
        _refuse_silence(backbone, trainables, prompt_batch)
    return PassResult(losses, prompt_norms(prompt_batch), divergences)


def leaves(prompt_batch: PromptBatch) -> PromptBatch:
    """The batch's numbers as leaves, at which gradients gather."""
    return changed(prompt_batch, lambda values: values.detach().requires_grad_(values.requires_grad))


def _losses_of(
    passes: Passes,
    groups: Sequence[Group],
    regularizer_context: RegularizerContext | None,
    check: Callable[[AbstractBackbone, Tensor], None] | None,
) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """Task losses and divergences of the rows of some passes, which are gone through in both directions."""
    clean = passes.clean(groups, check)
    losses, divergences = clean.task_losses, torch.zeros_like(clean.task_losses)
    for group in groups:
        assert regularizer_context is not None
        task, divergence = passes.perturbed(group, clean, regularizer_context)
        losses, divergences = losses + task, divergences + divergence
    clean.finish()
    return losses, divergences


def _pull_back(whole: PromptBatch, prompt_batch: PromptBatch) -> None:
    """Through the reparameterisations, from the gradients that have gathered at the batch of prompts."""
    reached = [(ours, own.grad) for (_, ours), (_, own) in zip(numbers(whole), numbers(prompt_batch), strict=True)]
    reached = [(ours, gradient) for ours, gradient in reached if gradient is not None]
    if reached:
        torch.autograd.backward(*zip(*reached, strict=True))


@torch.no_grad()
def prompt_norms(prompt_batch: PromptBatch) -> Float[Tensor, " p"]:
    """Mean l2 norm of each prompt's vectors, mu = mean_i ||P_i||_2; 0 for a prompt without vectors."""
    norms = prompt_batch.vectors.norm(dim=-1)
    return norms.sum(-1) / prompt_batch.mask.sum(-1).clamp(min=1)


def _refuse_gaps(backbone: AbstractBackbone, losses: Tensor) -> None:
    """Refuse a layer that torch cannot differentiate: beside a residual the gradient would be wrong, not 0."""
    seen, waiting = set(), [losses.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("NotImplemented"):
            raise NotTrainable(
                f"a layer of {backbone.name!r} gives no gradient to its input, as quantised layers of torch.ao do; "
                "load the model unquantised, or by a library that does"
            )
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]


def _refuse_silence(
    backbone: AbstractBackbone, trainables: Sequence[TrainablePrompt], prompt_batch: PromptBatch
) -> None:
    for number, trainable in enumerate(trainables):
        if not trainable.prompt_parameters():
            continue
        own = (
            [prompt_batch.vectors]
            if trainable.deep is None or prompt_batch.deep is None
            else [prompt_batch.vectors, prompt_batch.deep]
        )
        if any(vectors.grad is None or not vectors.grad[number].any() for vectors in own):
            raise NotTrainable(
                f"no gradient reaches the prompt through {backbone.name!r} ({trainable.method.name}, first step): a layer, "
                "often a quantised one, gives none to its input; load the model unquantised, or by a library that does"
            )
