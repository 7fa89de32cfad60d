"""One forward and backward pass for all prompts of a fleet: the only place where gradients are made."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones import AbstractBackbone
from ..bank import Batch, PromptBank
from ..errors import NotTrainable
from ..fleet import Lane, bank_of
from ..losses import cross_entropy, squared_error


@dataclass(frozen=True)
class PassResult:
    """What a pass showed: each lane's mean loss, and the mean norm of its prompt vectors (EPT, equation 4)."""

    losses: Float[Tensor, " p"]
    norms: Float[Tensor, " p"]


def row_losses(logits: Tensor, batch: Batch) -> Float[Tensor, " b"]:
    """The task loss of each row: cross entropy in nats, or squared error where the target is a number."""
    assert batch.targets is not None
    loss = squared_error if batch.targets.is_floating_point() else cross_entropy
    return loss(logits, batch.targets)


def backward(
    backbone: AbstractBackbone,
    lanes: Sequence[Lane],
    batch: Batch,
    seeds: Sequence[int],
    *,
    scale: float = 1.0,
    check: bool = False,
) -> PassResult:
    """Add the gradients of `scale x sum_k mean_{rows of k} loss` to the lanes.

    Summed over lanes, so that a lane's gradient does not depend on who shares its pass.

    Args:
        backbone: the frozen model.
        lanes: the prompts, in the order of `batch.owner`.
        batch: rows of all lanes.
        seeds: for a reparameterisation's dropout, one a lane.
        scale: 1 / number of passes in an optimiser step.
        check: refuse a backbone through which no gradient, or only a part of it, arrives; on the first step only.

    Raises:
        NotTrainable: no gradient reached the prompt vectors, or a layer passed none on.
    """
    bank = bank_of(lanes, seeds)
    if check and bank.vectors.requires_grad:
        bank.vectors.retain_grad()
    losses = row_losses(backbone.logits(bank, batch), batch)
    counts = torch.bincount(batch.owner, minlength=len(lanes))
    means = torch.zeros(len(lanes), dtype=losses.dtype, device=losses.device)
    means = means.index_add(0, batch.owner, losses) / counts
    if check:
        _refuse_gaps(backbone, means)
    if means.requires_grad:
        (scale * means.sum()).backward()
    if check:
        _refuse_silence(backbone, lanes, bank.vectors)
    return PassResult(means.detach(), prompt_norms(bank))


@torch.no_grad()
def prompt_norms(bank: PromptBank) -> Float[Tensor, " p"]:
    """Mean l2 norm of each prompt's vectors, mu = mean_i ||P_i||_2; 0 for a prompt without vectors."""
    norms = bank.vectors.norm(dim=-1)
    return norms.sum(-1) / bank.mask.sum(-1).clamp(min=1)


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


def _refuse_silence(backbone: AbstractBackbone, lanes: Sequence[Lane], vectors: Tensor) -> None:
    gradient = vectors.grad
    for number, lane in enumerate(lanes):
        if not lane.prompt_parameters():
            continue
        if gradient is None or not gradient[number].any():
            raise NotTrainable(
                f"no gradient reaches the prompt through {backbone.name!r} ({lane.method.name}, first step): a layer, "
                "often a quantised one, gives none to its input; load the model unquantised, or by a library that does"
            )
