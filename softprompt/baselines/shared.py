"""MPT (Wang et al., 2023, arXiv:2303.02861): a prompt that tasks share, times a low-rank matrix of each task."""

from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..errors import BadInput
from ..prompts.initializers import from_vocabulary
from ..prompts.seeds import seeded
from .swap import Place, Start, Swap

# Of the random part of the task matrices. Without it, matrices of rank above 1 would stay of rank 1.
DEVIATION = 0.02


@final
class Shared(nn.Module):
    """A prompt P for several tasks: that of task k is P * (u_k v_k).

    Args:
        prompt: P.
        columns: u_k [n, r] of each task.
        rows: v_k [r, e] of each task.
    """

    def __init__(self, prompt: Float[Tensor, "n e"], columns: Float[Tensor, "k n r"], rows: Float[Tensor, "k r e"]):
        super().__init__()
        self.prompt, self.columns, self.rows = nn.Parameter(prompt), nn.Parameter(columns), nn.Parameter(rows)

    @classmethod
    def new(cls, backbone: AbstractBackbone, n: int, rank: int, seed: int, *, tasks: int = 1) -> "Shared":
        """Return a new prompt of random tokens, with task matrices near 1."""
        generator = torch.Generator().manual_seed(seed)
        prompt = from_vocabulary()(n, backbone.word_vectors.detach().cpu(), generator)
        with seeded(seed, torch.device("cpu")):
            columns = 1 / rank + DEVIATION * torch.randn(tasks, n, rank)
            rows = 1 + DEVIATION * torch.randn(tasks, rank, prompt.shape[1])
        return cls(prompt, columns, rows)

    def of(self, task: int) -> Float[Tensor, "n e"]:
        """Return the prompt of a task, with gradients."""
        return self.prompt * (self.columns[task] @ self.rows[task])

    @torch.no_grad()
    def mean(self) -> "Shared":
        """Return the prompt with the mean matrices of all tasks, for a new task."""
        parts = (self.prompt, self.columns.mean(0, keepdim=True), self.rows.mean(0, keepdim=True))
        return Shared(*(part.detach().cpu().clone() for part in parts))

    def forward(
        self, prompt: Float[Tensor, "b n e"], text: Float[Tensor, "b t e"], mask: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b n e"], Float[Tensor, "b t e"]]:
        """Add the prompt of the only task to what stands before each row; the text stays."""
        return prompt + self.of(0), text


def mpt(backbone: AbstractBackbone, options: Mapping[str, Any], start: Start) -> Swap:
    """Return the shared prompt and the matrices of a new task.

    Args:
        backbone: the model, which stays as it is.
        options: `length`, `rank`, and `task_lr`, the learning rate of the matrices; the others are of the training on
            the source tasks.
        start: what was learned from the source tasks, else the seed of random numbers.

    Raises:
        BadInput: a size below 1.
    """
    n, rank = options["length"], options["rank"]
    if min(n, rank) < 1:
        raise BadInput(f"'mpt' needs a length and a rank of at least 1, not {n} and {rank}")
    change = start.shared or Shared.new(backbone, n, rank, start.seed)
    assert isinstance(change, Shared)
    change = change.to(backbone.device)
    rates = {"columns": options["task_lr"], "rows": options["task_lr"]}
    places = [Place(backbone, "on_rows", None, change)]
    return Swap(dict(change.named_parameters()), places, positions=n, rates=rates, in_words=("prompt",))
