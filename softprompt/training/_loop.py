"""The only training loop. Prompts share passes of one frozen backbone; what changes the backbone has its own passes."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from ..backbones import AbstractBackbone
from ..baselines import answering
from ..data import Examples, Rows
from ..inference.answers import Answers, answer_all
from ..inference.report import Report
from ..inference.scoring_rule import scoring_for
from ..memory import MemoryBudget
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.prompt import SoftPrompt
from ..prompts.seeds import seeded, stream_seed
from ..prompts.standardization import standardized
from ..prompts.trainable import stack_prompts
from ..prompts.tuned import Stored
from ..settings import TrainSettings
from ..tasks import Task
from ._advice import ExplosionWatch
from ._leaves import leaves
from ._loss_rule import task_loss
from ._member import FleetMember
from ._processes import Processes
from ._records import Record
from ._spikes import is_spike
from ._step import PassResult, backward
from .objectives import Objective, Plain, Regularized, RegularizerContext, WithShownLabels, acting


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a fleet learns from: a frozen backbone, a task and its tokenised splits."""

    backbone: AbstractBackbone
    task: Task
    train: Examples
    validation: Examples
    test: Examples
    # The training rows as they are read, from which prompts show examples.
    rows: Rows | None = None


@final
class Loop:
    """Optimiser steps for all prompts until every prompt has finished, stopped or been dropped.

    Args:
        run_data: backbone, task, rows.
        members: the prompts.
        settings: what they share.
        steps: optimiser steps in all.
        timing: where seconds are recorded, apart from what must be reproducible.
        processes: that train these prompts together; None is this one alone.
    """

    def __init__(
        self,
        run_data: RunData,
        members: Sequence[FleetMember],
        settings: TrainSettings,
        steps: int,
        timing: Record,
        processes: Processes | None = None,
    ):
        self.run_data, self.members, self.settings, self.steps = run_data, list(members), settings, steps
        self.timing, self.processes = timing, processes or Processes()
        regularized = any(member.regularizers for member in members)
        backbone, task = run_data.backbone, run_data.task
        self.plain = Plain(task_loss(settings, task, backbone, run_data.train))
        self.scoring = scoring_for(settings, task, backbone)
        self.regularizer_context = RegularizerContext.of(backbone, task, self.plain.loss) if regularized else None
        self.memory_budget = MemoryBudget.of(run_data.backbone, exact=not settings.backbone_dropout)
        self.scoring_budget = MemoryBudget.of(run_data.backbone)
        self.explosions = ExplosionWatch(run_data.backbone.kind, steps)
        self._fit()
        self.step = 0

    def _fit(self) -> None:
        """Bound the passes by the memory that is free now."""
        train, backbone = self.run_data.train, self.run_data.backbone
        for members in self._fleets():
            with members[0].trainable.applied():
                self._fit_fleet(members, train, backbone)

    def _fit_fleet(self, members: list[FleetMember], train: Examples, backbone: AbstractBackbone) -> None:
        """Bound the passes of some members, with what they make the model compute."""
        prompt_batch = leaves(stack_prompts([member.trainable for member in members], [0] * len(members)))
        longest = train.batch([int(train.lengths.argmax())], 0, backbone.pad_id).to(backbone.device)
        rows = sum(min(self.settings.batch_size, len(member.rows)) for member in members)
        # As the passes will be: dropout keeps what it draws.
        backbone.dropout(self.settings.backbone_dropout)
        with seeded(0, backbone.device):
            # A divergence may keep the activations of the clean pass.
            graphs = 2 if self.regularizer_context else 1
            self.memory_budget.fit(backbone, prompt_batch, longest, rows, graphs, self.plain.row_losses)
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
            self.step += 1
            watch(self, self._optimize())
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

    def seconds_of_step(self, steps: int, enough: float) -> float:
        """Seconds of an optimiser step, measured over some after one that warms up, or over fewer once it is enough.

        Args:
            steps: that are timed.
            enough: seconds after which no further step begins; one step of this length is the measure itself.
        """
        seconds: list[float] = []
        while len(seconds) <= steps and sum(seconds) < enough:
            self.step = len(seconds) + 1
            start = time.perf_counter()
            self._optimize()
            seconds.append(time.perf_counter() - start)
        counted = seconds[1:] or seconds
        return sum(counted) / len(counted)

    def seconds_of_row(self, rows: int) -> float:
        """Seconds in which all prompts answer one validation row, measured over some rows."""
        prompts = [member.trainable.fold(member.provenance) for member in self.active]
        few = self.run_data.validation.select(range(min(rows, len(self.run_data.validation))))
        start = time.perf_counter()
        self.scores(prompts, few)
        return (time.perf_counter() - start) / len(few)

    def _optimize(self) -> dict[str, float]:
        """One optimiser step of every active member; its losses in nats."""
        return {name: loss for members in self._fleets() for name, loss in self._optimize_fleet(members).items()}

    def _optimize_fleet(self, members: list[FleetMember]) -> dict[str, float]:
        """One optimiser step of members that share their passes."""
        # Drawn before: a step that is repeated with fewer rows a pass sees the same.
        batches = [self._batch(members) for _ in range(self.settings.grad_accumulation)]
        results = self.memory_budget.within(lambda: self._gradients(members, batches))
        results = self.processes.summed(members, results)
        mean = torch.stack([result.losses for result in results]).mean(0)
        norms = torch.stack([member.optimizer.gradient_norm() for member in members])
        # One transfer from the device a step, whatever the number of prompts.
        apart = torch.stack([result.divergences for result in results]).mean(0)
        numbers = torch.stack([mean, apart.to(mean), results[-1].norms.to(mean), norms.to(mean)], 1).tolist()
        for member, (loss, divergence, norm, gradient), gradient_norm in zip(members, numbers, norms, strict=True):
            if not math.isfinite(loss) or not math.isfinite(gradient):
                member.drop(self.step, f"loss {loss}, gradient norm {gradient}")
                continue
            if member.optimizer.overflows(self.step):
                member.drop(
                    self.step, f"its learning rate, {member.settings.lr:g}, is beyond what its numbers can hold"
                )
                continue
            is_skipped = is_spike(loss, member.losses, self.settings.skip_spikes)
            rate = 0.0 if is_skipped else member.optimizer.step(self.step, gradient_norm)
            if not is_skipped:
                member.losses.append(loss)
                member.trainable.project()
            values: dict[str, Any] = {"loss": loss, "lr": rate} | ({"skipped": True} if is_skipped else {})
            if member.trainable.token_norm is not None:
                values |= {"prompt_norm": norm, "token_norms": norm / member.trainable.token_norm}
                self.explosions.see(member, self.step, norm / member.trainable.token_norm)
            more = member.regularizers or member.shown_labels
            values |= {"gradient_norm": gradient} | ({"divergence": divergence} if more else {})
            member.record.write({"step": self.step, **values})
        return {member.name: loss for member, (loss, *_) in zip(members, numbers, strict=True)}

    def _gradients(self, members: list[FleetMember], batches: list[TextBatch]) -> list[PassResult]:
        """Fresh gradients of all prompts, from nothing that an earlier attempt has left."""
        for member in members:
            member.trainable.zero_grad(set_to_none=True)
        # Alone, if it changes what the model computes.
        with members[0].trainable.applied():
            return [self._pass(members, number, batch) for number, batch in enumerate(batches)]

    def _pass(self, members: list[FleetMember], number: int, batch: TextBatch) -> PassResult:
        backbone = self.run_data.backbone
        longest = max(member.trainable.length for member in members)
        lengths, ours = (batch.mask.sum(1) + longest).tolist(), self.processes.share(len(batch.mask))
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
            scale=1 / self.settings.grad_accumulation,
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
        for member, scores in zip(waiting, self.scores(prompts, self.run_data.validation), strict=True):
            member.judge_beginning(scores)

    def _evaluate(self) -> None:
        """Score the active prompts on the validation rows, folded as they are stored; candidates are not scored."""
        for member in self.active:
            if member.race is None and not member.trainable.is_finite():
                member.drop(self.step, "the prompt is no longer finite")
        judged = [member for member in self.active if member.race is None]
        prompts = [member.trainable.fold(member.provenance) for member in judged]
        reports = self.scores(prompts, self.run_data.validation)
        for member, prompt, scores in zip(judged, prompts, reports, strict=True):
            member.judge(self.step, prompt, scores, self.settings.patience)

    def scores(
        self, prompts: Sequence[Stored], examples: Examples, rows: Sequence[Sequence[int]] | None = None
    ) -> list[Report]:
        """Metrics of what was stored on tokenised rows: of prompts in shared passes, of weights one after another.

        Args:
            prompts: any number.
            examples: the rows.
            rows: which of them each prompt answers; None is all.
        """
        examples_of = [examples] * len(prompts) if rows is None else [examples.select(chosen) for chosen in rows]
        answers = self.answers(prompts, examples, rows)
        return [Report.from_answers(self.run_data.task, *pair) for pair in zip(examples_of, answers, strict=True)]

    def answers(
        self, prompts: Sequence[Stored], examples: Examples, rows: Sequence[Sequence[int]] | None = None
    ) -> list[Answers]:
        """Answers of what was stored to tokenised rows; as in `scores`."""
        seen = [range(len(examples))] * len(prompts) if rows is None else rows
        together = [number for number, stored in enumerate(prompts) if isinstance(stored, SoftPrompt)]
        alone = [[number] for number in range(len(prompts)) if number not in together]
        answers: dict[int, Answers] = {}
        for numbers in [together, *alone] if together else alone:
            with contextlib.ExitStack() as applied:
                before = [applied.enter_context(answering(prompts[n], self.run_data.backbone)) for n in numbers]
                answered = self._answered(before, examples, [seen[n] for n in numbers])
            answers |= dict(zip(numbers, answered, strict=True))
        return [answers[number] for number in range(len(prompts))]

    def _answered(
        self, prompts: Sequence[SoftPrompt], examples: Examples, rows: Sequence[Sequence[int]]
    ) -> list[Answers]:
        """Answers of prompts that share their passes."""
        backbone, settings = self.run_data.backbone, self.settings
        prompt_batch = PromptBatch.of(*prompts, device=backbone.device)
        ours = [self.processes.of(rows_of_prompt) for rows_of_prompt in rows]
        answers = self.scoring_budget.within(
            lambda: answer_all(
                backbone,
                prompt_batch,
                examples,
                self.run_data.task,
                ours,
                decode=settings.decode,
                scoring=self.scoring,
                max_new_tokens=settings.max_new_tokens,
                batch_size=2 * settings.batch_size * len(prompts),
                memory_budget=self.scoring_budget,
            )
        )
        return self.processes.joined(answers)
