"""Our training step: the loop that `softprompt train` runs, on the rows that the peer is given."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

import torch
from benchmarks.against_peft.rows import twin
from softprompt.backbones import AbstractBackbone, from_model
from softprompt.data import Examples
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.tasks import task
from softprompt.training._built import build_prompts
from softprompt.training._loop import Loop
from softprompt.training._plan import Plan
from softprompt.training._records import Record
from softprompt.training._run_data import RunData
from softprompt.training._start import start_members
from softprompt.training._step import backward
from softprompt.training.beginnings.words import beginnings_of
from torch import Tensor


def backbone_of(model: Any, tokenizer: Any, engine: str) -> AbstractBackbone:
    """The frozen model under an engine; its weights are shared with the peer's."""
    return from_model(twin(model), tokenizer, name="T5", engine=engine)


@final
class Ours:
    """One fleet in the real loop, optimised as the Trainer does: AdamW without decay, clipping at 1, linear schedule.

    Args:
        backbone: the frozen model.
        method: of all prompts.
        examples: rows.
        batches: which rows come together, in this order, in every prompt.
        options: of the method.
        fleet: prompts.
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
        prompts = tuple(
            PromptSettings(method=method, options=options, lr=lr, units="raw", seeds=Seeds.all(seed))
            for seed in range(fleet)
        )
        # The task is not asked for anything but its name: the rows are tokenised already.
        plan = Plan(task=task("glue/sst2"), model=backbone.spec, prompts=prompts, settings=settings)
        run_data = RunData(
            plan=plan, backbone=backbone, train=examples, validation=examples, test=examples,
            beginnings=beginnings_of(plan, None, backbone),
        )  # fmt: skip
        self.prompts = list(start_members(run_data, build_prompts(run_data), folder, {}))
        for prompt in self.prompts:
            prompt.batches = iter([list(rows) for rows in batches])
        self.loop = Loop(run_data, self.prompts, Record(folder / "timing.jsonl"))

    def step(self) -> None:
        """The loop's next step."""
        with torch.backends.mkldnn.flags(enabled=self.onednn):
            self.loop.take_step()

    def close(self) -> None:
        """Close the records."""
        for record in (self.loop.timing, *(prompt.record for prompt in self.prompts)):
            record.close()

    def loss_and_gradient(self, rows: Sequence[int]) -> tuple[float, Tensor]:
        """The loss of some rows and its gradient at the first prompt's initial vectors."""
        prompt = self.prompts[0].trainable
        assert isinstance(prompt, TrainablePrompt)
        prompt.zero_grad()
        loss = self._pass_over(self.prompts[:1], rows)
        assert prompt.initial.grad is not None
        gradient = prompt.initial.grad.clone()
        prompt.zero_grad()
        return float(loss), gradient

    def probe(self, rows: Sequence[int]) -> None:
        """What a step of the whole fleet passes, split as the loop splits it; gradients are thrown away."""
        self._pass_over(self.prompts, rows)
        for prompt in self.prompts:
            prompt.trainable.zero_grad()

    def _pass_over(self, prompts: Iterable[Any], rows: Sequence[int]) -> Tensor:
        chosen = [prompt.trainable.train() for prompt in prompts]
        owner = torch.arange(len(chosen)).repeat_interleave(len(rows))
        batch = self.examples.batch(list(rows) * len(chosen), owner, self.backbone.pad_id)
        n = max(prompt.method.prompt_length for prompt in chosen)
        parts = self.loop.memory_budget.parts((batch.mask.sum(1) + n).tolist())
        batch = batch.to(self.backbone.device)
        with torch.backends.mkldnn.flags(enabled=self.onednn):
            return backward(self.backbone, chosen, batch, [0] * len(chosen), parts=parts).losses[0]
