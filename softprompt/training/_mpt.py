"""MPT, first part: one prompt for several tasks, distilled from a prompt of each (Wang et al., 2023, arXiv:2303.02861).

The prompt of task k is P * (u_k v_k), with P shared by all tasks. Its loss is CE + weight (KL + MSE): the divergence of
the answers from those behind the task's own source prompt, and the squared difference of the last states over the text.
Each step takes two or more of the tasks at random. The second part, the new task, begins at P and at the means of u_k
and v_k, and trains in the common loop.
"""

import dataclasses
import logging
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import final

import torch
from torch import Tensor

from ..backbones import AbstractBackbone
from ..baselines import Shared
from ..data import Examples, load_rows, split_rows, stream
from ..errors import BadInput
from ..inference.evaluate import examples_for
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.methods import Method
from ..prompts.prompt import SoftPrompt
from ..prompts.seeds import stream_seed
from ..prompts.units import WordScale
from ..regularizers import DIVERGENCES, row_divergences
from ..settings import PromptSettings
from ..tasks import Task
from ._drive import fast_denormals
from ._loop import RunData
from ._loss_rule import task_loss
from ._optimizer import learning_rate_factor, warmup_steps
from ._plan import Plan
from ._setup import step_count, training_rows
from ._source_prompts import source_prompt
from .objectives import TaskLoss

log = logging.getLogger("softprompt")


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


def shared_prompts(plan: Plan, run_data: RunData) -> dict[int, Shared]:
    """Train the first part of each prompt of MPT.

    Args:
        plan: the plan of the run.
        run_data: backbone and rows of the new task.

    Returns:
        What the second part begins at, by the number of the prompt in the plan.

    Raises:
        BadInput: a source prompt that records no task, sources of one task only, or a backbone that answers by a head.
        ModelMismatch: a source of another model.
    """
    numbers = [number for number, prompt in enumerate(plan.prompts) if Method.of(prompt).weights == "mpt"]
    if numbers and run_data.backbone.answers == "linear-head":
        raise BadInput(
            f"'mpt' shares a prompt between tasks, and {run_data.backbone.name!r} answers each by a linear head of its "
            "own; give --answers=label-words"
        )
    with fast_denormals():
        return {number: _distilled(plan, run_data, plan.prompts[number]) for number in numbers}


def distillation(
    backbone: AbstractBackbone,
    loss: TaskLoss,
    student: PromptBatch,
    teacher: PromptBatch,
    batch: TextBatch,
    weight: float,
) -> Tensor:
    """Return CE + weight (KL(teacher || student) + MSE of the last states over the text), the mean over the rows."""
    outputs, states = loss.outputs(backbone, student, batch), backbone.text_states(student, batch)
    with torch.no_grad():
        taught, taught_states = loss.outputs(backbone, teacher, batch), backbone.text_states(teacher, batch)
    divergence = row_divergences(DIVERGENCES["kl"], taught, outputs, loss.positions(batch)).mean()
    # The text stands at the left of its own columns, whatever side the pads are on.
    there = torch.arange(states.shape[1], device=states.device) < batch.mask.sum(1, keepdim=True)
    apart = (states - taught_states).float()[there].square().mean()
    return loss.losses(outputs, batch).mean() + weight * (divergence + apart)


def _distilled(plan: Plan, run_data: RunData, prompt: PromptSettings) -> Shared:
    """Train one prompt on the tasks of all sources; returns what the new task begins at."""
    method, backbone = Method.of(prompt), run_data.backbone
    tasks = _source_tasks(plan, backbone, prompt, method.prompt_length)
    rows = len(training_rows(run_data, plan.settings, prompt))
    steps = method.options["source_steps"] or step_count(plan.settings, rows)
    seed = stream_seed(prompt.seeds.initialization, "network")
    student = Shared.new(backbone, method.prompt_length, method.options["rank"], seed, tasks=len(tasks))
    student = student.to(backbone.device)
    matrices = {"params": [student.columns, student.rows], "lr": method.options["task_lr"]}
    decay, unit = plan.settings.weight_decay, 1.0
    if method.resolved(prompt).units == "rms":
        unit = WordScale.of(backbone.word_vectors).rms
    shared = {"params": [student.prompt], "lr": unit * (prompt.lr or method.lr), "weight_decay": decay / unit}
    optimizer = torch.optim.AdamW([shared, matrices], weight_decay=decay)
    warmup = min(warmup_steps(plan.settings, steps), steps - 1)
    rate = partial(learning_rate_factor, steps=steps, warmup=warmup, schedule=plan.settings.schedule)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: rate(min(done + 1, steps)))
    draw, loss = random.Random(stream_seed(prompt.seeds.order, "tasks")), 0.0
    for step in range(1, steps + 1):
        chosen = sorted(draw.sample(range(len(tasks)), draw.randint(2, len(tasks))))
        optimizer.zero_grad()
        weight = method.options["distillation"]
        loss = fmean(_backward(backbone, tasks[k], student.of(k), weight, len(chosen)) for k in chosen)
        if not math.isfinite(loss):
            raise BadInput(f"the loss over the source tasks is {loss} at step {step}; give a lower --lr")
        optimizer.step()
        schedule.step()
    log.info("mpt: %d steps over %s, last loss %.4f", steps, ", ".join(task.name for task in tasks), loss)
    return student.mean()


def _backward(backbone: AbstractBackbone, task: SourceTask, student: Tensor, weight: float, tasks: int) -> float:
    """Add the gradients of a task's share of the loss; returns its loss."""
    batch = task.train.batch(next(task.batches), 0, backbone.pad_id).to(backbone.device)
    prompt = PromptBatch.stack([student])
    loss = distillation(backbone, task.loss, prompt, task.teacher, batch, weight)
    (loss / tasks).backward()
    return float(loss.detach())


def _source_tasks(plan: Plan, backbone: AbstractBackbone, prompt: PromptSettings, n: int) -> list[SourceTask]:
    """Return the tasks of the source prompts, with their rows as the model reads them."""
    teachers = [source_prompt(path, backbone) for path in prompt.sources]
    tasks = [_task_of(path, teacher) for path, teacher in zip(prompt.sources, teachers, strict=True)]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise BadInput(
            f"'mpt' learns from prompts of different tasks, and these are of {', '.join(names)}; give others"
        )
    found = []
    for task, teacher in zip(tasks, teachers, strict=True):
        rows = split_rows(task, load_rows(task, plan.data_root, plan.max_bad_rows)).train
        train = examples_for(backbone, task, rows, max(n, teacher.length))
        settings = dataclasses.replace(plan.settings, class_weights="", loss="auto")
        batches = stream(train.lengths, range(len(train)), plan.settings.batch_size, seed=prompt.seeds.order)
        found.append(
            SourceTask(
                task.name,
                train,
                task_loss(settings, task, backbone, train),
                PromptBatch.of(teacher, device=backbone.device),
                batches,
            )
        )
    return found


def _task_of(path: str, source: SoftPrompt) -> Task:
    """Return the task that a source prompt was trained on."""
    if source.provenance.task is None:
        raise BadInput(f"--source={path!r} does not record its task, whose rows 'mpt' needs; give a prompt of a run")
    return Task.from_json(source.provenance.task)
