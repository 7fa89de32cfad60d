"""The contract of what is minimised, and the plain objective: the mean task loss over the rows of each prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ...backbones import AbstractBackbone
from ...prompts.batch import PromptBatch, TextBatch
from ._passes import Passes
from ._task_loss import TOKENS, TaskLoss

# Looks at losses before their backward pass.
Check = Callable[[Tensor], None]


@runtime_checkable
class Objective(Protocol):
    """What is minimised: a number per prompt, as a sum over its rows, so that the rows may be split into passes."""

    def backward(self, passes: Passes, check: Check | None = None) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """Run the frozen model forward and backward; the gradients accumulate at `passes.prompt_batch`.

        Args:
            passes: some or all rows of a step.
            check: sees the losses before the first backward pass.

        Returns:
            What these rows contribute to the task loss and to the divergence of each prompt, without gradient.
        """
        ...


@final
@dataclass(frozen=True)
class Plain:
    """The mean task loss over each prompt's rows: one pass forward and one backward.

    Args:
        loss: the task loss of a row.
    """

    loss: TaskLoss = TOKENS

    def row_losses(self, backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch) -> Tensor:
        """Return the loss of each row, [b]."""
        return self.loss.losses(self.loss.outputs(backbone, prompt_batch, batch), batch)

    def backward(self, passes: Passes, check: Check | None = None) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """As in the contract; there is no divergence."""
        outputs = passes.outputs(self.loss, passes.batch)
        losses = passes.means(self.loss.losses(outputs, passes.batch), passes.batch.owner)
        if check:
            check(losses)
        passes.differentiate(losses)
        return losses.detach(), torch.zeros_like(losses)
