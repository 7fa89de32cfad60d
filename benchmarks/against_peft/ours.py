"""Our training step: the loop that `softprompt train` runs, on the rows that the peer is given."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

import torch
from benchmarks.against_peft.rows import twin
from softprompt.backbones import AbstractBackbone, from_model
from softprompt.data import Examples
from softprompt.settings import LaneSettings, Seeds, TrainSettings
from softprompt.tasks import task
from softprompt.training._loop import Loop, Material
from softprompt.training._plan import Plan
from softprompt.training._records import Record
from softprompt.training._setup import build_lanes
from softprompt.training._start import start_lanes
from softprompt.training._step import backward
from torch import Tensor


def backbone_of(model: Any, tokenizer: Any, engine: str) -> AbstractBackbone:
    """The frozen model under an engine; its weights are shared with the peer's."""
    return from_model(twin(model), tokenizer, name="T5", engine=engine)


@final
class Ours:
    """One fleet in the real loop, optimised as the Trainer does: AdamW without decay, clipping at 1, linear schedule.

    Args:
        backbone: the frozen model.
        method: of all lanes.
        examples: rows.
        batches: which rows come together, in this order, in every lane.
        options: of the method.
        fleet: lanes.
        onednn: whether the engine may multiply by oneDNN; else by what torch takes for everybody.
        lr: learning rate at its peak.
        folder: for the records of the run.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        method: str,
        examples: Examples,
        batches: Sequence[Sequence[int]],
        *,
        options: dict[str, Any],
        fleet: int,
        onednn: bool,
        lr: float,
        folder: Path,
    ):
        self.backbone, self.examples, self.onednn = backbone, examples, onednn
        settings = TrainSettings(
            steps=len(batches), batch_size=len(batches[0]), warmup=0, weight_decay=0.0, clip=1.0, bucket=1
        )
        lanes = tuple(
            LaneSettings(method=method, options=options, lr=lr, units="raw", seeds=Seeds.all(seed))
            for seed in range(fleet)
        )
        # The task is not asked for anything but its name: the rows are tokenised already.
        plan = Plan(task=task("glue/sst2"), model=backbone.name, lanes=lanes, settings=settings)
        material = Material(backbone=backbone, task=plan.task, train=examples, validation=examples, test=examples)
        self.lanes = start_lanes(plan, material, build_lanes(plan, material), folder)
        for lane in self.lanes:
            lane.batches = iter([list(rows) for rows in batches])
        self.loop = Loop(material, self.lanes, settings, len(batches), Record(folder / "timing.jsonl", 0))

    def step(self) -> None:
        """The loop's next step."""
        self.loop.step += 1
        with torch.backends.mkldnn.flags(enabled=self.onednn):
            self.loop._optimize()

    def close(self) -> None:
        """Close the records."""
        for record in (self.loop.timing, *(lane.record for lane in self.lanes)):
            record.close()

    def loss_and_gradient(self, rows: Sequence[int]) -> tuple[float, Tensor]:
        """The loss of some rows and its gradient at the first lane's initial vectors."""
        lane = self.lanes[0].lane
        lane.zero_grad()
        found = self._pass_over(self.lanes[:1], rows)
        assert lane.initial.grad is not None
        gradient = lane.initial.grad.clone()
        lane.zero_grad()
        return float(found), gradient

    def probe(self, rows: Sequence[int]) -> None:
        """What a step of the whole fleet passes, split as the loop splits it; gradients are thrown away."""
        self._pass_over(self.lanes, rows)
        for lane in self.lanes:
            lane.lane.zero_grad()

    def _pass_over(self, lanes: Iterable[Any], rows: Sequence[int]) -> Tensor:
        chosen = [lane.lane.train() for lane in lanes]
        owner = torch.arange(len(chosen)).repeat_interleave(len(rows))
        batch = self.examples.batch(list(rows) * len(chosen), owner, self.backbone.pad_id)
        n = max(lane.method.prompt_length for lane in chosen)
        parts = self.loop.room.parts((batch.mask.sum(1) + n).tolist())
        batch = batch.to(self.backbone.device)
        with torch.backends.mkldnn.flags(enabled=self.onednn):
            return backward(self.backbone, chosen, batch, [0] * len(chosen), parts=parts).losses[0]
