"""The only training loop. Prompts share passes of one frozen backbone; what changes the backbone has its own passes."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..backbones import AbstractBackbone, turn
from ..data import Examples
from ..memory import MemoryBudget
from ..prompts.batch import TextBatch
from ..prompts.seeds import seeded, stream_seed
from ..prompts.standardization import standardized
from ..prompts.trainable import stack_prompts
from ._advice import ExplosionWatch
from ._leaves import leaves
from ._loss_rule import task_loss
from ._member import FleetMember
from ._processes import Processes
from ._records import Record
from ._run_data import RunData
from ._scorer import Scorer
from ._spikes import is_spike
from ._step import PassResult, backward
from .objectives import Objective, Plain, Regularized, RegularizerContext, WithShownLabels, acting


@final
class Loop:
    """Optimiser steps for all prompts until every prompt has finished, stopped or been dropped.

    Args:
        run_data: the run.
        members: the prompts.
        timing: where seconds are recorded, apart from what must be reproducible.
        processes: that train these prompts together; None is this one alone.
    """

    def __init__(
        self,
        run_data: RunData,
        members: Sequence[FleetMember],
        timing: Record,
        processes: Processes | None = None,
    ):
        self.run_data, self.members, self.settings = run_data, list(members), run_data.plan.settings
        self.steps = members[0].optimizer.steps
        self.timing, self.processes = timing, processes or Processes()
        regularized = any(member.regularizers for member in members)
        backbone, task = run_data.backbone, run_data.task
        self.plain = Plain(task_loss(self.settings, task, backbone, run_data.train))
        self.regularizer_context = RegularizerContext.of(backbone, task, self.plain.loss) if regularized else None
        self.memory_budget = MemoryBudget.of(run_data.backbone, exact=not self.settings.backbone_dropout)
        self.memory_budget.bound(self.settings.tokens_per_batch)
        self.scorer = Scorer(run_data, self.processes)
        self.explosions = ExplosionWatch(run_data.backbone.kind, self.steps)
        self._fit()
        self.step = 0

    def _fit(self) -> None:
        """Bound the passes by the memory that is free now."""
        train, backbone = self.run_data.train, self.run_data.backbone
        for members in self._fleets():
            with turn(backbone.model), members[0].trainable.applied():
                self._fit_fleet(members, train, backbone)

    def _fit_fleet(self, members: list[FleetMember], train: Examples, backbone: AbstractBackbone) -> None:
        """Bound the passes of some members, with what they make the model compute."""
        prompt_batch = leaves(stack_prompts([member.trainable for member in members], [0] * len(members)))
        behind = self.plain.loss.read_positions(backbone, train.answer_lengths)
        place = int((train.lengths + behind).argmax())
        longest = train.batch([place], 0, backbone.pad_id).to(backbone.device)
        rows = sum(min(self.settings.batch_size, len(member.rows)) for member in members)
        # As the passes will be: dropout keeps what it draws.
        backbone.dropout(self.settings.backbone_dropout)
        with seeded(0, backbone.device):
            # A divergence may keep the activations of the clean pass.
            graphs = 2 if self.regularizer_context else 1
            losses, of_longest = self.plain.row_losses, int(behind[place])
            self.memory_budget.fit(backbone, prompt_batch, longest, rows, graphs, losses, of_longest)
        backbone.dropout(False)

    @property
    def active(self) -> list[FleetMember]:
        """The prompts that share the next pass."""
        return [member for member in self.members if member.is_training]

    def _fleets(self) -> list[list[FleetMember]]:
        """The active members that share their passes, and each of the others for itself.

        With the frozen model's dropout each is for itself, because a pass has one draw: that of one prompt's seed.
        """
        if self.settings.backbone_dropout:
            return [[member] for member in self.active]
        together = [member for member in self.active if not member.trainable.is_alone]
        alone = [[member] for member in self.active if member.trainable.is_alone]
        return [together, *alone] if together else alone

    def run(
        self,
        *,
        save: Callable[["Loop"], None],
        is_stopped: Callable[[], bool],
        watch: Callable[["Loop", dict[str, float]], None],
        judged: Callable[["Loop"], None] = lambda loop: None,
    ) -> bool:
        """Train to the end; False if `is_stopped` ended it earlier. Saves after each evaluation and when stopped.

        Args:
            save: writes a checkpoint.
            is_stopped: asked after each step.
            watch: sees the loss of each active prompt after each step.
            judged: sees the scores of each evaluation, and may stop prompts.
        """
        start = time.perf_counter()
        self._judge_beginnings()
        while self.step < self.steps and self.active:
            watch(self, self.take_step())
            if self._choose():
                self._judge_beginnings()
            stopped = is_stopped()
            if self.step % self.settings.eval_every == 0 or self.step == self.steps:
                self._evaluate()
                judged(self)
                stopped = stopped or is_stopped()
                seconds, start = time.perf_counter() - start, time.perf_counter()
                self.timing.write({"step": self.step, "seconds": round(seconds, 3)})
                save(self)
            elif stopped:
                save(self)
            if stopped and self.step < self.steps and self.active:
                return False
        return True

    def take_step(self) -> dict[str, float]:
        """The next optimiser step of every active member; its losses."""
        self.step += 1
        return self._optimize()

    def _optimize(self) -> dict[str, float]:
        return {name: loss for members in self._fleets() for name, loss in self._optimize_fleet(members).items()}

    def _optimize_fleet(self, members: list[FleetMember]) -> dict[str, float]:
        """One optimiser step of members that share their passes."""
        # Drawn before: a step that is repeated with fewer rows a pass sees the same.
        batches = [self._batch(members) for _ in range(self.settings.grad_accumulation)]
        results = self.memory_budget.within(lambda: self._gradients(members, batches))
        results = self.processes.summed(members, results)
        numbers = _numbers(members, results)
        for member, of_member in zip(members, numbers, strict=True):
            self._apply(member, of_member)
        return {member.name: of_member.loss for member, of_member in zip(members, numbers, strict=True)}

    def _apply(self, member: FleetMember, numbers: "_StepNumbers") -> None:
        """Take a member's step and record it; leave out a spike, and drop the member where its numbers are no more."""
        if not math.isfinite(numbers.loss) or not math.isfinite(numbers.gradient):
            member.drop(self.step, f"loss {numbers.loss}, gradient norm {numbers.gradient}")
            return
        if member.optimizer.overflows(self.step):
            member.drop(self.step, f"its learning rate, {member.settings.lr:g}, is beyond what its numbers can hold")
            return
        is_skipped = is_spike(numbers.loss, member.losses, self.settings.skip_spikes)
        rate = 0.0 if is_skipped else member.optimizer.step(self.step, numbers.gradient_norm)
        if not is_skipped:
            member.losses.append(numbers.loss)
            member.trainable.project()
        values: dict[str, Any] = {"loss": numbers.loss, "lr": rate} | ({"skipped": True} if is_skipped else {})
        if member.trainable.token_norm is not None:
            token_norms = numbers.norm / member.trainable.token_norm
            values |= {"prompt_norm": numbers.norm, "token_norms": token_norms}
            self.explosions.see(member, self.step, token_norms)
        more = member.regularizers or member.shown_labels
        values |= {"gradient_norm": numbers.gradient} | ({"divergence": numbers.divergence} if more else {})
        member.record.write({"step": self.step, **values})

    def _gradients(self, members: list[FleetMember], batches: list[TextBatch]) -> list[PassResult]:
        """Fresh gradients of all prompts, from nothing that an earlier attempt has left."""
        for member in members:
            member.trainable.zero_grad(set_to_none=True)
        # Alone, if it changes what the model computes; and dropout is on in no other thread's pass.
        with turn(self.run_data.backbone.model), members[0].trainable.applied():
            owners = torch.cat([batch.owner for batch in batches])
            counts = torch.bincount(owners, minlength=len(members)).to(self.run_data.backbone.device)
            return [self._pass(members, number, batch, counts) for number, batch in enumerate(batches)]

    def _pass(self, members: list[FleetMember], number: int, batch: TextBatch, counts: Tensor) -> PassResult:
        backbone = self.run_data.backbone
        assert batch.targets is not None
        behind = self.plain.loss.read_positions(backbone, (batch.targets >= 0).sum(1))
        texts = batch.mask.sum(1) + max(member.trainable.length for member in members)
        lengths, ours = (texts + behind).tolist(), self.processes.share(len(batch.mask))
        parts = self.memory_budget.parts([lengths[row] for row in ours]) if ours else [[]]
        seeds = [stream_seed(member.settings.seeds.noise, f"dropout/{self.step}/{number}") for member in members]
        # A callback may have changed it since the last pass.
        backbone.dropout(self.settings.backbone_dropout)
        return backward(
            backbone,
            [member.trainable.train() for member in members],
            batch.to(backbone.device),
            seeds,
            self._objective(members, number),
            counts=counts,
            # The first process has a row of every prompt.
            check=self.step == 1 and number == 0 and self.processes.is_first,
            dropout_seed=seeds[0] if self.settings.backbone_dropout or members[0].trainable.has_noise else None,
            parts=[[ours[place] for place in part] for part in parts],
        )

    def _objective(self, members: list[FleetMember], number: int) -> Objective:
        """What a pass of this step minimises: the task loss, the active regularisers around it, and shown labels."""
        objective = self._regularized(members, number)
        labels = [member.shown_labels for member in members]
        return WithShownLabels(objective, labels) if any(labels) else objective

    def _regularized(self, members: list[FleetMember], number: int) -> Objective:
        if self.regularizer_context is None:
            return self.plain
        regularizers = [member.regularizers for member in members]
        seeds = [member.settings.seeds.noise for member in members]
        terms = acting(regularizers, seeds, self.step, self.steps, number)
        return Regularized(self.plain, terms, self.regularizer_context)

    def _batch(self, members: list[FleetMember]) -> TextBatch:
        """The next rows of every prompt, side by side in one batch."""
        rows = [next(member.batches) for member in members]
        owner = torch.repeat_interleave(torch.tensor([len(r) for r in rows]))
        batch = self.run_data.train.batch([i for r in rows for i in r], owner, self.run_data.backbone.pad_id)
        assert batch.targets is not None
        return dataclasses.replace(
            batch, targets=standardized(batch.targets, owner, [member.trainable.numbers for member in members])
        )

    def _choose(self) -> bool:
        """Replace the candidates of each race that has ended by its winner; return whether there was one."""
        before = self.members
        for race in dict.fromkeys(member.race for member in self.members if member.race):
            candidates = [member for member in self.members if member.race is race]
            if race.is_over(self.step, candidates):
                losers = set(candidates) - {race.choose(self.step, candidates)}
                self.members = [member for member in self.members if member not in losers]
        return len(self.members) < len(before)

    def _judge_beginnings(self) -> None:
        """Score prompts that began as words as they began, so that none is stored that is below its words."""
        # Also of a prompt that was dropped in its race: its words are still worth storing.
        waiting = [member for member in self.members if member.race is None and member.beginning is not None]
        if not waiting:
            return
        prompts = [member.beginning for member in waiting if member.beginning is not None]
        for member, scores in zip(waiting, self.scorer.scores(prompts, self.run_data.validation), strict=True):
            member.judge_beginning(scores)

    def _evaluate(self) -> None:
        """Score the active prompts on the validation rows, folded as they are stored; candidates are not scored."""
        for member in self.active:
            if member.race is None and not member.trainable.is_finite():
                member.drop(self.step, "the prompt is no longer finite")
        judged = [member for member in self.active if member.race is None]
        prompts = [member.trainable.fold(member.provenance) for member in judged]
        reports = self.scorer.scores(prompts, self.run_data.validation)
        for member, prompt, scores in zip(judged, prompts, reports, strict=True):
            if scores is None:
                member.drop(self.step, "the model computes NaN with it on validation rows")
            else:
                member.judge(self.step, prompt, scores, self.settings.patience)


@dataclass(frozen=True, eq=False)
class _StepNumbers:
    """What the passes of one step say of one member.

    Args:
        loss: in nats, or in squared deviations where a head answers with a number; the mean over the passes.
        divergence: of its regularisers and shown labels, likewise.
        norm: the mean of the vectors'.
        gradient: the norm of its gradient.
        gradient_norm: the same, where it was computed.
    """

    loss: float
    divergence: float
    norm: float
    gradient: float
    gradient_norm: Tensor


def _numbers(members: Sequence[FleetMember], results: Sequence[PassResult]) -> list[_StepNumbers]:
    """What the passes of one step say of each of their members."""
    mean = torch.stack([result.losses for result in results]).sum(0)
    norms = torch.stack([member.optimizer.gradient_norm() for member in members])
    apart = torch.stack([result.divergences for result in results]).sum(0)
    # One transfer from the device a step, whatever the number of prompts.
    numbers = torch.stack([mean, apart.to(mean), results[-1].norms.to(mean), norms.to(mean)], 1).tolist()
    return [
        _StepNumbers(loss, divergence, norm, gradient, gradient_norm)
        for (loss, divergence, norm, gradient), gradient_norm in zip(numbers, norms, strict=True)
    ]
