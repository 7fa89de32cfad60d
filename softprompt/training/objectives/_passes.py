"""The rows of one step, or a part of them, and their passes through the frozen model."""

import contextlib
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...backbones import AbstractBackbone
from ...prompts.batch import PromptBatch, TextBatch
from ...prompts.seeds import seeded
from ._task_loss import TaskLoss


@final
class Passes:
    """The passes of one step over some or all of its rows.

    Args:
        backbone: the frozen model.
        prompt_batch: the prompts, as leaves that accumulate the gradients.
        batch: all rows of a batch of the step, of all prompts.
        p: number of prompts.
        counts: rows of each prompt in the optimiser step, over which means are taken; None is those of this batch.
        dropout_seed: seed of the frozen model's dropout, if it is on.
        rows: indices of the rows of these passes; None takes all rows.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        prompt_batch: PromptBatch,
        batch: TextBatch,
        p: int,
        counts: Int[Tensor, " p"] | None,
        dropout_seed: int | None,
        rows: Int[Tensor, " k"] | None = None,
    ):
        self.backbone, self.prompt_batch, self.p = backbone, prompt_batch, p
        self.dropout_seed = dropout_seed
        self.whole, self.rows = batch, rows
        self.batch = batch if rows is None else batch.select(rows).trimmed()
        self.counts = (torch.bincount(batch.owner, minlength=p) if counts is None else counts).clamp(min=1)

    def outputs(self, loss: TaskLoss, batch: TextBatch, anew: bool = False) -> Float[Tensor, "b l v"]:
        """Run the frozen model forward. Every pass has the same draw of its dropout, unless it is drawn `anew`."""
        with self.noise(anew):
            return loss.outputs(self.backbone, self.prompt_batch, batch)

    def noise(self, anew: bool) -> contextlib.AbstractContextManager[object]:
        """Seed the frozen model's dropout inside the `with` block: with the same draw in each pass, or a new one."""
        if self.dropout_seed is None:
            return contextlib.nullcontext()
        return seeded(self.dropout_seed + anew, self.backbone.device)

    def means(self, values: Float[Tensor, " b"], owner: Int[Tensor, " b"]) -> Float[Tensor, " p"]:
        """Return what these rows contribute to each prompt's mean over its rows of the step; 0 for one without rows."""
        sums = torch.zeros(self.p, dtype=values.dtype, device=values.device).index_add(0, owner, values)
        return sums / self.counts

    def differentiate(self, losses: Float[Tensor, " p"]) -> None:
        """Run the graph of the losses backward. The gradient of a prompt does not depend on the other prompts."""
        if losses.requires_grad:
            losses.sum().backward()
