"""The optimiser steps of MPT's first part, over the tasks of the source prompts.

The prompt of task k is P * (u_k v_k), with P shared by all tasks. Its loss is CE + weight (KL + MSE): the divergence of
the answers from those after the task's own source prompt, and the squared difference of the last states over the text.
Each step takes two or more of the tasks at random. The new task begins at P and at the means of u_k and v_k.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import final

import torch
from torch import Tensor

from ...backbones import AbstractBackbone
from ...baselines import Shared
from ...data import Examples, load_rows, split_rows, stream
from ...errors import BadInput
from ...inference.rows import examples_for
from ...prompts.batch import PromptBatch, TextBatch
from ...prompts.methods import Method
from ...prompts.prompt import SoftPrompt
from ...prompts.seeds import stream_seed
from ...prompts.tuned import below
from ...prompts.units import WordScale
from ...regularizers import DIVERGENCES, row_divergences
from ...settings import PromptSettings
from ...store import Checkpoint, save_checkpoint
from ...tasks import Task
from .._inputs import OtherRows
from .._leaves import leaves
from .._loss_rule import task_loss
from .._optimizer import EPS, adamw_state, learning_rate_factor, load_adamw_state, warmup_steps
from .._plan import Plan
from .._prepare import step_count, training_rows
from .._run_data import RunData, fingerprint_of
from ..beginnings.sources import source_of_task
from ..objectives import TaskLoss


@final
@dataclass(frozen=True)
class SourceTask:
    """A task with its own prompt.

    Args:
        name: of the task.
        train: its training rows.
        loss: its task loss.
        teacher: its prompt.
        batches: places of rows, batch after batch.
    """

    name: str
    train: Examples
    loss: TaskLoss
    teacher: PromptBatch
    batches: Iterator[list[int]]


def distillation(
    backbone: AbstractBackbone,
    loss: TaskLoss,
    student: PromptBatch,
    teacher: PromptBatch,
    batch: TextBatch,
    weight: float,
    step: Sequence[TextBatch] = (),
) -> Tensor:
    """Return what a batch contributes to CE + weight (KL(teacher || student) + MSE of the last states over the text).

    CE and KL are means over the rows, MSE is one over the numbers of all words of all rows: those of the batches of the
    optimiser step, so that accumulated gradients are those of one large batch. An empty `step` is this batch alone.
    """
    rows, words = (sum(int(count(one.mask)) for one in step or [batch]) for count in (len, torch.sum))
    outputs, states = loss.outputs(backbone, student, batch), backbone.text_states(student, batch)
    with torch.no_grad():
        taught, taught_states = loss.outputs(backbone, teacher, batch), backbone.text_states(teacher, batch)
    divergence = row_divergences(DIVERGENCES["kl"], taught, outputs, loss.positions(batch)).sum() / rows
    # The text stands at the left of its own columns, whatever side the pads are on.
    is_text = torch.arange(states.shape[1], device=states.device) < batch.mask.sum(1, keepdim=True)
    apart = (states - taught_states).float()[is_text].square().sum() / (words * states.shape[2])
    return loss.losses(outputs, batch).sum() / rows + weight * (divergence + apart)


@final
class SourceTraining:
    """The optimiser steps of the first part, and what a checkpoint holds of them.

    Args:
        run_data: the run, over the rows of the new task.
        prompt: the settings of the prompt.

    Raises:
        BadInput: a source prompt that is deep or records no task, or sources of one task only.
        ModelMismatch: a source of another model.
    """

    def __init__(self, run_data: RunData, prompt: PromptSettings):
        plan, method, backbone = run_data.plan, Method.of(prompt), run_data.backbone
        self.plan, self.backbone = plan, backbone
        self.tasks = _source_tasks(plan, backbone, prompt, method.prompt_length)
        rows = len(training_rows(run_data, prompt))
        self.step, self.steps = 0, method.options["source_steps"] or step_count(plan.settings, rows)
        self.weight, self.loss = method.options["distillation"], 0.0
        seed = stream_seed(prompt.seeds.initialization, "network")
        student = Shared.new(backbone, method.prompt_length, method.options["rank"], seed, tasks=len(self.tasks))
        self.student = student.to(backbone.device)
        self.unit = WordScale.of(backbone.word_vectors).rms if method.resolved(prompt).units == "rms" else 1.0
        self.adamw = self._optimizer(prompt.lr or method.lr, method.options["task_lr"])
        self._draw = random.Random(stream_seed(prompt.seeds.order, "tasks"))

    def _optimizer(self, lr: float, task_lr: float) -> torch.optim.AdamW:
        decay, unit = self.plan.settings.weight_decay, self.unit
        matrices = {"params": [self.student.columns, self.student.rows], "peak": task_lr}
        shared = {"params": [self.student.prompt], "peak": unit * lr, "weight_decay": decay / unit, "eps": EPS / unit}
        return torch.optim.AdamW([shared, matrices], weight_decay=decay)

    def take_step(self) -> None:
        """Make one optimiser step over tasks that are drawn at random.

        Raises:
            BadInput: the loss is not finite.
        """
        self.step += 1
        chosen = self._chosen()
        self.adamw.zero_grad()
        self.loss = fmean(
            _backward(self.backbone, self.tasks[k], self.student.of(k), self.weight, self._batches(k), len(chosen))
            for k in chosen
        )
        if not math.isfinite(self.loss):
            raise BadInput(f"the loss over the source tasks is {self.loss} at step {self.step}; give a lower --lr")
        settings = self.plan.settings
        warmup = min(warmup_steps(settings, self.steps), self.steps - 1)
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * learning_rate_factor(self.step, self.steps, warmup, settings.schedule)
        if settings.clip is not None:
            self._clip(settings.clip)
        self.adamw.step()

    def _clip(self, most: float) -> None:
        """Scale all gradients down to this norm, in which the prompt's is in its unit."""
        parameters = list(self.student.parameters())
        units = [self.unit if p is self.student.prompt else 1.0 for p in parameters]
        gradients = [unit * p.grad for unit, p in zip(units, parameters, strict=True) if p.grad is not None]
        torch.nn.utils.clip_grads_with_norm_(parameters, most, torch.nn.utils.get_total_norm(gradients))

    def save(self, folder: Path) -> None:
        """Write a checkpoint.

        Raises:
            StorageFailure: the disk is full or not writable.
        """
        tensors = {f"parameters.{name}": value.detach() for name, value in self.student.state_dict().items()}
        tensors |= {f"adamw.{name}": value for name, value in adamw_state(self.adamw).items()}
        save_checkpoint(folder, self.step, tensors, {"step": self.step, "loss": self.loss, "rows": self._rows()})

    def restore(self, checkpoint: Checkpoint, run: Path) -> None:
        """Go on from a checkpoint of this run.

        Raises:
            OtherRows: the tasks have other rows than it was made with.
        """
        if checkpoint.state["rows"] != self._rows():
            raise OtherRows(
                f"the rows of the source tasks are not those that {run} was started with; restore them, or start a "
                "new run"
            )
        self.student.load_state_dict(below("parameters.", checkpoint.tensors))
        load_adamw_state(self.adamw, below("adamw.", checkpoint.tensors))
        # The same draws as before the checkpoint, so that the next ones follow them.
        for _ in range(checkpoint.step):
            for k in self._chosen():
                self._batches(k)
        self.step, self.loss = checkpoint.step, checkpoint.state["loss"]

    def _chosen(self) -> list[int]:
        """The places of the tasks of the next step, two or more."""
        count = len(self.tasks)
        return sorted(self._draw.sample(range(count), self._draw.randint(2, count)))

    def _batches(self, k: int) -> list[list[int]]:
        """The places of the next rows of a task, batch by batch, whose gradients one step adds up."""
        return list(itertools.islice(self.tasks[k].batches, self.plan.settings.grad_accumulation))

    def _rows(self) -> str:
        return fingerprint_of(task.train for task in self.tasks)


def _backward(
    backbone: AbstractBackbone,
    task: SourceTask,
    student: Tensor,
    weight: float,
    batches: Sequence[Sequence[int]],
    tasks: int,
) -> float:
    """Add the gradients of a task's share of the loss over these rows; returns its loss."""
    step = [task.train.batch(rows, 0, backbone.pad_id).to(backbone.device) for rows in batches]
    # Gradients accumulate at the prompt, whose own graph runs backward once.
    whole = PromptBatch.stack([student])
    prompt, total = leaves(whole), 0.0
    for batch in step:
        loss = distillation(backbone, task.loss, prompt, task.teacher, batch, weight, step)
        (loss / tasks).backward()
        total += float(loss.detach())
    whole.vectors.backward(prompt.vectors.grad)
    return total


def _source_tasks(plan: Plan, backbone: AbstractBackbone, prompt: PromptSettings, n: int) -> list[SourceTask]:
    """Return the tasks of the source prompts, with their rows as the model reads them."""
    teachers = [source_of_task(path, backbone) for path in prompt.sources]
    tasks = [_task_of(path, teacher) for path, teacher in zip(prompt.sources, teachers, strict=True)]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise BadInput(
            f"'mpt' learns from prompts of different tasks, and these are of {', '.join(names)}; give others"
        )
    sources = []
    for task, teacher in zip(tasks, teachers, strict=True):
        rows = split_rows(task, load_rows(task, plan.data_root, plan.max_bad_rows)).train
        train = examples_for(backbone, task, rows, max(n, teacher.length))
        # Numbers and free text have one loss, and classes of another task other weights.
        loss = plan.settings.loss if task.answer == "label" else "auto"
        settings = dataclasses.replace(plan.settings, class_weights="", loss=loss)
        batches = stream(train.lengths, range(len(train)), plan.settings.batch_size, seed=prompt.seeds.order)
        sources.append(
            SourceTask(
                task.name,
                train,
                task_loss(settings, task, backbone, train),
                PromptBatch.of(teacher, device=backbone.device),
                batches,
            )
        )
    return sources


def _task_of(path: str, source: SoftPrompt) -> Task:
    """Return the task that a source prompt was trained on."""
    if source.provenance.task is None:
        raise BadInput(f"--source={path!r} does not record its task, whose rows 'mpt' needs; give a prompt of a run")
    return Task.from_json(source.provenance.task)
