"""One run on several devices: each process takes a share of the rows of every step, as torchrun starts them.

All processes hold the same prompts and draw the same batches. Each computes the gradients of its share of the rows, and
the sums are exchanged, so that all take the same step. Losses and scores are exchanged too, so that all decide alike.
The first process writes the run's folder. The others write into folders of their own, which they remove.
"""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..inference.answers import Answers
from ._step import PassResult

if TYPE_CHECKING:
    from ._member import FleetMember


@dataclass(frozen=True)
class Processes:
    """The processes that train one run together, and this one among them.

    Args:
        rank: number of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "Processes":
        """Those that torchrun has started; one alone without it."""
        # Some clusters set the number of processes without starting any.
        if "LOCAL_RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        atexit.register(state.destroy_process_group)
        if not state.is_main_process:
            # The first process says it for all.
            logging.getLogger("softprompt").setLevel(logging.ERROR)
        return cls(state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's folder and talks to the user."""
        return self.rank == 0

    def place(self, output: "Path | str | None") -> "Path | str | None":
        """Where this process writes its run: the output, or a folder that is removed when the process ends."""
        if self.is_first:
            return output
        scratch = Path(tempfile.mkdtemp(prefix="softprompt-rank-"))
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return scratch / "run"

    def shows(self, progress: bool) -> bool:
        """Whether this process shows the progress."""
        return progress and self.is_first

    def only_first(self, tracker: str | None) -> str | None:
        """The tracker, which the first process alone tells."""
        return tracker if self.is_first else None

    def copy(self, run: Path) -> Path:
        """The folder of a run that is resumed; a copy for all but the first process, which waits for them."""
        if self.size == 1:
            return run
        copy = run if self.is_first else Path(str(self.place(None)))
        if not self.is_first:
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns(".lock", ".*.tmp"))
        self.gathered(None)
        return copy

    def of(self, rows: Sequence[Any]) -> list[Any]:
        """This process's share of some rows."""
        return list(rows[self.rank :: self.size])

    def share(self, batch_rows: int) -> list[int]:
        """The rows of a batch that this process computes."""
        return self.of(range(batch_rows))

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, in their order."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def any(self, value: bool) -> bool:
        """Whether it is so for any of the processes."""
        return any(self.gathered(value))

    def first(self, value: Any) -> Any:
        """The first process's value."""
        return self.gathered(value)[0]

    def joined(self, answers: Sequence[Answers]) -> list[Answers]:
        """The answers of each prompt to all rows, from those of each process to its share."""
        if self.size == 1:
            return list(answers)
        return [_woven(each) for each in zip(*self.gathered(list(answers)), strict=True)]

    def summed(self, members: "Sequence[FleetMember]", results: Sequence[PassResult]) -> list[PassResult]:
        """Sum the gradients of the members over all processes, and the losses of each pass."""
        if self.size == 1:
            return list(results)
        parameters = [p for member in members for p in member.trainable.parameters() if p.requires_grad]
        have = torch.tensor([float(p.grad is not None) for p in parameters])
        numbers = [have, *(result.losses for result in results), *(result.divergences for result in results)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        have, *sums = self._sum([*numbers, *gradients])
        count = len(results)
        for parameter, gradient, is_there in zip(parameters, sums[2 * count :], have.tolist(), strict=True):
            parameter.grad = gradient if is_there else None
        pairs = zip(results, sums[:count], sums[count : 2 * count], strict=True)
        return [replace(result, losses=losses, divergences=apart) for result, losses, apart in pairs]

    def _sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums of some tensors over all processes, exchanged at once: float64 if the last one is, else float32."""
        from accelerate.utils import reduce

        device, dtype = tensors[-1].device, torch.promote_types(tensors[-1].dtype, torch.float32)
        flat = torch.cat([tensor.detach().to(device, dtype).flatten() for tensor in tensors])
        total = reduce(flat, reduction="sum")
        assert isinstance(total, Tensor)
        parts = total.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor).to(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def _woven(shares: Sequence[Answers]) -> Answers:
    """The answers to all rows, of which each process had every n-th."""
    counts = [len(share.values) for share in shares]
    places = [(number % len(shares), number // len(shares)) for number in range(sum(counts))]
    scores = [share.scores for share in shares]
    if scores[0] is None:
        joined = None
    else:
        known = [each for each in scores if each is not None]
        joined = torch.stack([known[process][place] for process, place in places]) if places else known[0]
    values, texts = ([getattr(shares[i], name)[k] for i, k in places] for name in ("values", "texts"))
    return Answers(values, texts, joined)
