"""The only training loop: a fleet of prompts on one frozen backbone; a single prompt is a fleet of one."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch

from ..backbones import AbstractBackbone
from ..data import Examples
from ..inference.answers import answer_all
from ..inference.evaluate import Report, report
from ..memory import Room
from ..prompts.batch import Batch, PromptBank
from ..prompts.prompt import SoftPrompt
from ..prompts.standardization import standardized
from ..prompts.trainable import bank_of, seeded, stream_seed
from ..settings import TrainSettings
from ..tasks import Task
from ._member import TrainedLane, is_finite
from ._records import Record
from ._step import PassResult, backward, leaves
from ._terms import Surroundings, acting


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a fleet learns from: a frozen backbone, a task and its tokenised splits."""

    backbone: AbstractBackbone
    task: Task
    train: Examples
    validation: Examples
    test: Examples


@final
class Loop:
    """Optimiser steps for all lanes until every lane has finished, stopped or been dropped.

    Args:
        material: backbone, task, rows.
        lanes: the prompts.
        settings: what they share.
        steps: optimiser steps in all.
        timing: where seconds are recorded, apart from what must be reproducible.
    """

    def __init__(
        self, material: Material, lanes: Sequence[TrainedLane], settings: TrainSettings, steps: int, timing: Record
    ):
        self.material, self.lanes, self.settings, self.steps = material, list(lanes), settings, steps
        self.timing = timing
        regularized = any(lane.regularizers for lane in lanes)
        self.surroundings = Surroundings.of(material.backbone, material.task) if regularized else None
        self.room = Room.of(material.backbone, exact=not settings.backbone_dropout)
        self.scoring = Room.of(material.backbone)
        self._fit()
        self.step = 0

    def _fit(self) -> None:
        """Bound the passes by the memory that is free now."""
        lanes, train, backbone = self.active, self.material.train, self.material.backbone
        if not lanes:
            return
        bank = leaves(bank_of([lane.lane for lane in lanes], [0] * len(lanes)))
        longest = train.batch([int(train.lengths.argmax())], 0, backbone.pad_id).to(backbone.device)
        rows = sum(min(self.settings.batch_size, len(lane.rows)) for lane in lanes)
        # As the passes will be: dropout keeps what it draws.
        backbone.dropout(self.settings.backbone_dropout)
        with seeded(0, backbone.device):
            # A divergence may keep the activations of the clean pass.
            self.room.fit(backbone, bank, longest, rows, graphs=2 if self.surroundings else 1)
        backbone.dropout(False)

    @property
    def active(self) -> list[TrainedLane]:
        """The lanes that share the next pass."""
        return [lane for lane in self.lanes if lane.is_training]

    def run(
        self,
        *,
        save: Callable[["Loop"], None],
        is_stopped: Callable[[], bool],
        watch: Callable[["Loop", dict[str, float]], None],
    ) -> bool:
        """Train to the end; False if `is_stopped` ended it earlier. Saves after each evaluation and when stopped.

        Args:
            save: writes a checkpoint.
            is_stopped: asked after each step.
            watch: sees the loss of each active lane after each step.
        """
        start = time.perf_counter()
        while self.step < self.steps and self.active:
            self.step += 1
            watch(self, self._optimize())
            self._choose()
            stopped = is_stopped()
            if self.step % self.settings.eval_every == 0 or self.step == self.steps:
                self._evaluate()
                stopped = stopped or is_stopped()
                seconds, start = time.perf_counter() - start, time.perf_counter()
                self.timing.write({"step": self.step, "seconds": round(seconds, 3)})
                save(self)
            elif stopped:
                save(self)
            if stopped and self.step < self.steps and self.active:
                return False
        return True

    def _optimize(self) -> dict[str, float]:
        """One optimiser step of every active lane; its losses in nats."""
        lanes = self.active
        # Drawn before: a step that is repeated with fewer rows a pass sees the same.
        batches = [self._batch(lanes) for _ in range(self.settings.grad_accumulation)]
        results = self.room.within(lambda: self._gradients(lanes, batches))
        mean = torch.stack([result.losses for result in results]).mean(0)
        norms = torch.stack([lane.optimizer.gradient_norm() for lane in lanes])
        # One transfer from the device a step, whatever the number of lanes.
        apart = torch.stack([result.divergences for result in results]).mean(0)
        found = torch.stack([mean, apart.to(mean), results[-1].norms.to(mean), norms.to(mean)], 1).tolist()
        for lane, (loss, divergence, norm, gradient), gradient_norm in zip(lanes, found, norms, strict=True):
            if not math.isfinite(loss) or not math.isfinite(gradient):
                lane.drop(self.step, f"loss {loss}, gradient norm {gradient}")
                continue
            if lane.optimizer.overflows(self.step):
                lane.drop(self.step, f"its learning rate, {lane.settings.lr:g}, is beyond what its numbers can hold")
                continue
            rate = lane.optimizer.step(self.step, gradient_norm)
            token_norms = norm / lane.lane.words.token_norm
            values = {"loss": loss, "lr": rate, "prompt_norm": norm, "token_norms": token_norms}
            values |= {"gradient_norm": gradient} | ({"divergence": divergence} if lane.regularizers else {})
            lane.record.write({"step": self.step, **values})
        return {lane.name: loss for lane, (loss, *_) in zip(lanes, found, strict=True)}

    def _gradients(self, lanes: list[TrainedLane], batches: list[Batch]) -> list[PassResult]:
        """Fresh gradients of all lanes, from nothing that an earlier attempt has left."""
        for lane in lanes:
            lane.lane.zero_grad(set_to_none=True)
        return [self._pass(lanes, number, batch) for number, batch in enumerate(batches)]

    def _pass(self, lanes: list[TrainedLane], number: int, batch: Batch) -> PassResult:
        backbone = self.material.backbone
        longest = max(lane.lane.method.prompt_length for lane in lanes)
        parts = self.room.parts((batch.mask.sum(1) + longest).tolist())
        seeds = [stream_seed(lane.settings.seeds.noise, f"dropout/{self.step}/{number}") for lane in lanes]
        if self.settings.backbone_dropout:
            backbone.dropout(True)
        own = [lane.regularizers for lane in lanes]
        return backward(
            backbone,
            [lane.lane.train() for lane in lanes],
            batch.to(backbone.device),
            seeds,
            scale=1 / self.settings.grad_accumulation,
            check=self.step == 1 and number == 0,
            terms=acting(own, [lane.settings.seeds.noise for lane in lanes], self.step, self.steps, number),
            surroundings=self.surroundings,
            dropout_seed=seeds[0] if self.settings.backbone_dropout else None,
            parts=parts,
        )

    def _batch(self, lanes: list[TrainedLane]) -> Batch:
        """The next rows of every lane, side by side in one batch."""
        rows = [next(lane.batches) for lane in lanes]
        owner = torch.repeat_interleave(torch.tensor([len(r) for r in rows]))
        batch = self.material.train.batch([i for r in rows for i in r], owner, self.material.backbone.pad_id)
        assert batch.targets is not None
        return dataclasses.replace(
            batch, targets=standardized(batch.targets, owner, [lane.lane.numbers for lane in lanes])
        )

    def _choose(self) -> None:
        """Where a first stretch has ended, one candidate goes on in the place of all; the others leave the passes."""
        for stretch in dict.fromkeys(lane.stretch for lane in self.lanes if lane.stretch):
            candidates = [lane for lane in self.lanes if lane.stretch is stretch]
            if stretch.is_over(self.step, candidates):
                losers = set(candidates) - {stretch.choose(self.step, candidates)}
                self.lanes = [lane for lane in self.lanes if lane not in losers]

    def _evaluate(self) -> None:
        """Score the active lanes on the validation rows, folded as they would be stored; candidates are not scored."""
        if self.settings.backbone_dropout:
            self.material.backbone.dropout(False)
        for lane in self.active:
            if lane.stretch is None and not is_finite(lane.lane):
                lane.drop(self.step, "the prompt is no longer finite")
        judged = [lane for lane in self.active if lane.stretch is None]
        prompts = [lane.lane.fold(lane.provenance) for lane in judged]
        reports = self.scores(prompts, self.material.validation)
        for lane, prompt, found in zip(judged, prompts, reports, strict=True):
            lane.judge(self.step, prompt, found, self.settings.patience)

    def scores(
        self, prompts: Sequence[SoftPrompt], examples: Examples, rows: Sequence[Sequence[int]] | None = None
    ) -> list[Report]:
        """Metrics of stored prompts on tokenised rows, in shared passes.

        Args:
            prompts: any number.
            examples: the rows.
            rows: which of them each prompt answers; None is all.
        """
        if not prompts:
            return []
        backbone, task, settings = self.material.backbone, self.material.task, self.settings
        own = [range(len(examples))] * len(prompts) if rows is None else rows
        bank = PromptBank.of(*prompts, device=backbone.device)
        answers = self.scoring.within(
            lambda: answer_all(
                backbone,
                bank,
                examples,
                task,
                own,
                decode=settings.decode,
                normalize=settings.normalize,
                max_new_tokens=settings.max_new_tokens,
                batch_size=2 * settings.batch_size * len(prompts),
                room=self.scoring,
            )
        )
        asked = [examples] * len(prompts) if rows is None else [examples.select(chosen) for chosen in rows]
        return [report(task, which, found) for which, found in zip(asked, answers, strict=True)]
