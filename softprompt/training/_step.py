"""The gradients of one step for all prompts of a fleet: the objective over their rows, and back into each prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..backbones import AbstractBackbone
from ..errors import NotTrainable
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.contract import AbstractTrainable
from ..prompts.seeds import stream_seed
from ..prompts.trainable import stack_prompts
from ._leaves import leaves, numbers
from .objectives import Objective, Passes, Plain


@dataclass(frozen=True)
class PassResult:
    """The results of a pass, with one number per prompt.

    Args:
        losses: what the pass contributes to the mean task loss over the rows of the step.
        norms: mean norm of the prompt vectors (EPT, equation 4). For a deep prompt these are the vectors of the first
            layer, because the others have the size of states, not of words.
        divergences: what it contributes to the sum of alpha x divergence over the prompt's regularisers; 0 if there are
            none.
    """

    losses: Float[Tensor, " p"]
    norms: Float[Tensor, " p"]
    divergences: Float[Tensor, " p"]


def backward(
    backbone: AbstractBackbone,
    trainables: Sequence[AbstractTrainable],
    batch: TextBatch,
    seeds: Sequence[int],
    objective: Objective | None = None,
    *,
    counts: Int[Tensor, " p"] | None = None,
    check: bool = False,
    dropout_seed: int | None = None,
    parts: Sequence[Sequence[int]] = (),
) -> PassResult:
    """Add the gradients of `sum_k objective of k` to the prompts k.

    The sum over prompts makes the gradient of a prompt independent of the prompts that share its pass.

    Args:
        backbone: the frozen model.
        trainables: the prompts, in the order of `batch.owner`.
        batch: rows of all prompts.
        seeds: one seed per prompt for the dropout of its reparameterisation.
        objective: what is minimised; None is the plain objective, the mean loss over the tokens of the answers.
        counts: rows of each prompt in the optimiser step, where it has other batches too. An objective is a mean over
            these, so that accumulated gradients are those of one large batch.
        check: whether to refuse a backbone that passes on no gradient or only a part of it; for the first step.
        dropout_seed: seed of the frozen model's dropout, if it is on. If all prompts have the same perturbations,
            perturbed rows get the same dropout as clean rows.
        parts: indices of the rows of each pass, which limits the memory in use at a time. The gradients stay the same,
            except for the frozen model's dropout, which each part draws separately. Rows in no part contribute nothing:
            they are another process's. Empty takes all rows in one pass; one empty part is no pass.

    Raises:
        NotTrainable: no gradient reaches the prompt vectors, or a layer does not pass it on.
    """
    objective = objective or Plain()
    whole = stack_prompts(trainables, seeds)
    # Gradients accumulate at the batch of prompts, so the reparameterisations run backward once for all passes.
    prompt_batch = leaves(whole)
    results = []
    for number, rows in enumerate(_row_indices(batch, parts)):
        seed = stream_seed(dropout_seed, f"part/{number}") if dropout_seed is not None and number else dropout_seed
        passes = Passes(backbone, prompt_batch, batch, len(trainables), counts, seed, rows)
        results.append(objective.backward(passes, partial(_refuse_gaps, backbone) if check and not number else None))
    nothing = torch.zeros(len(trainables), device=prompt_batch.vectors.device)
    losses, divergences = (
        (torch.stack(values).sum(0) for values in zip(*results, strict=True)) if results else (nothing, nothing)
    )
    _pull_back(whole, prompt_batch)
    if check:
        _refuse_silence(backbone, trainables, prompt_batch)
    return PassResult(losses, prompt_norms(prompt_batch), divergences)


def _row_indices(batch: TextBatch, parts: Sequence[Sequence[int]]) -> list[Tensor | None]:
    """Return the indices of the rows of each part; None for all rows in their order."""
    if not parts or (len(parts) == 1 and len(parts[0]) == len(batch.mask)):
        return [None]
    return [torch.tensor(rows, device=batch.ids.device) for rows in parts if rows]


def _pull_back(whole: PromptBatch, prompt_batch: PromptBatch) -> None:
    """Run the reparameterisations backward from the gradients that accumulated at the batch of prompts."""
    pairs = zip(numbers(whole), numbers(prompt_batch), strict=True)
    gradients = [(output, leaf.grad) for (_, output), (_, leaf) in pairs if leaf.grad is not None]
    if gradients:
        torch.autograd.backward([output for output, _ in gradients], [gradient for _, gradient in gradients])


@torch.no_grad()
def prompt_norms(prompt_batch: PromptBatch) -> Float[Tensor, " p"]:
    """Return the mean l2 norm of each prompt's vectors, mean_i ||P_i||_2; 0 for a prompt without vectors."""
    norms = prompt_batch.vectors.norm(dim=-1)
    return norms.sum(-1) / prompt_batch.mask.sum(-1).clamp(min=1)


def _refuse_gaps(backbone: AbstractBackbone, losses: Tensor) -> None:
    """Refuse a layer that torch cannot differentiate. Next to a residual connection the gradient would be wrong."""
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
    backbone: AbstractBackbone, trainables: Sequence[AbstractTrainable], prompt_batch: PromptBatch
) -> None:
    """Refuse a backbone through which no gradient reaches the vectors of a prompt.

    Raises:
        NotTrainable: the gradient of a prompt's vectors is missing or zero.
    """
    for number, trainable in enumerate(trainables):
        if not trainable.prompt_parameters():
            continue
        leaves_of_prompt = [prompt_batch.vectors]
        if prompt_batch.deep is not None and prompt_batch.is_deep is not None and prompt_batch.is_deep[number]:
            leaves_of_prompt.append(prompt_batch.deep)
        if any(vectors.grad is None or not vectors.grad[number].any() for vectors in leaves_of_prompt):
            raise NotTrainable(
                f"no gradient reaches the prompt through {backbone.name!r} ({trainable.method.name}, first step): "
                "a layer, often a quantised one, gives none to its input; load the model unquantised, or by a library "
                "that does"
            )
