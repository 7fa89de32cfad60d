"""The loss of CPT on the prompt itself: from its own vectors, the labels of the examples that it began as."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ...backbones import AbstractBackbone
from ...prompts.batch import PromptBatch, TextBatch
from ._objective import Check, Objective
from ._passes import Passes
from ._task_loss import TOKENS


@final
@dataclass(frozen=True)
class ShownLabels:
    """The label tokens of the examples in a prompt that began as labelled rows.

    Args:
        places: positions in the prompt of the label tokens, all examples in order.
        ids: the token at each of these positions.
        weights: the weight of each token's loss.
    """

    places: tuple[int, ...]
    ids: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, ids: Sequence[int], labels: Sequence[Sequence[int]], decay: float) -> "ShownLabels":
        """Weigh the labels of examples.

        Args:
            ids: of the whole prompt.
            labels: the positions of each example's label tokens.
            decay: the weight of the last example, and the factor from each one to that before it. A row's own answer
                has weight 1.
        """
        places = [place for label in labels for place in label]
        weights = [decay ** (len(labels) - number) for number, label in enumerate(labels) for _ in label]
        return cls(tuple(places), tuple(ids[place] for place in places), tuple(weights))

    def loss(self, backbone: AbstractBackbone, vectors: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
        """Return sum_t weight_t CE(token t | the prompt's vectors before it), in nats.

        Each token is a row without text after a prompt that ends before it, so the frozen model answers it as it
        answers any row.
        """
        prompt_batch = PromptBatch.stack([vectors[:place] for place in self.places])
        rows, device = len(self.places), vectors.device
        nothing = torch.zeros(rows, 1, dtype=torch.long, device=device)
        batch = TextBatch(
            ids=nothing,
            mask=nothing.bool(),
            owner=torch.arange(rows, device=device),
            targets=torch.tensor(self.ids, device=device)[:, None],
        )
        losses = TOKENS.losses(TOKENS.outputs(backbone, prompt_batch, batch), batch)
        return (losses * torch.tensor(self.weights, device=device, dtype=losses.dtype)).sum()


@final
class WithShownLabels:
    """An objective plus the loss on the labels of the examples that each prompt began as.

    The loss of a prompt is counted with its rows: of k of its b rows, the share k / b. It is reported as divergence,
    because it is no loss of the task.

    Args:
        objective: what is minimised besides.
        shown: the labels of each prompt; None for one without.
    """

    def __init__(self, objective: Objective, shown: Sequence[ShownLabels | None]):
        self.objective, self.shown = objective, shown

    def backward(self, passes: Passes, check: Check | None = None) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """As in the contract."""
        losses, divergences = self.objective.backward(passes, check)
        shares = torch.bincount(passes.batch.owner, minlength=passes.p) / passes.counts
        batch = passes.prompt_batch
        for number, shown in enumerate(self.shown):
            if shown is None or not shares[number]:
                continue
            with passes.noise(False):
                loss = shares[number] * shown.loss(passes.backbone, batch.vectors[number][batch.mask[number]])
            passes.differentiate(loss[None])
            divergences = divergences.index_add(
                0, torch.tensor([number], device=divergences.device), loss.detach()[None].to(divergences)
            )
        return losses, divergences
