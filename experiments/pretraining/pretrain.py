"""Pretraining of the built-in backbones: one recipe, one command, the same weights again; resumable at any time."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from softprompt.backbones import scale_embeddings
from softprompt.errors import BadInput, Interrupted
from softprompt.store import json_bytes, latest_checkpoint, save_checkpoint, write_file
from softprompt.training import fast_denormals, interruptible
from torch import Tensor, nn

from .lessons import Lesson
from .recipes import Recipe, build_model, build_tokenizer, recipe
from .skills import measure
from .weights import write_backbone

WARMUP = 200
SAVE_EVERY = 500
SKILLS = "skills.json"


def pretrain(name: str, output: Path | str, *, progress: bool = False) -> Path:
    """Make a built-in backbone by its recipe; the folder that plain `from_pretrained` loads.

    AdamW (0.9, 0.98), gradients clipped at norm 1, the learning rate warmed up over 200 steps, constant for half of
    the steps and then falling to zero linearly. Step k learns from the questions that belong to (seed, k), so that
    a run that was stopped goes on as if it never was.

    Args:
        name: "lab-t5", "lab-t5-small", "lab-bert" or "lab-gpt".
        output: working folder; `backbone` in it is the result, with the measured skills in `skills.json`.
        progress: show a bar on standard error.

    Raises:
        UnknownName: no such backbone.
        BadInput: the folder holds the pretraining of another recipe.
        Interrupted: after Ctrl-C; the same command goes on.
    """
    plan, folder = recipe(name), Path(output)
    _claim(folder, name, plan)
    result = folder / "backbone"
    if result.exists():
        return result
    tokenizer = build_tokenizer(plan.kind)
    lesson = Lesson(plan.kind, tokenizer.get_vocab(), plan.first_steps)
    model: Any = build_model(plan)
    with fast_denormals(), interruptible() as is_stopped, _bar(progress, name, plan.steps) as show:
        step = _train(model, lesson, plan, folder / "checkpoints", is_stopped, show)
    if step < plan.steps:
        raise Interrupted(f"stopped after step {step} of {plan.steps}; the same command goes on")
    scale_embeddings(model, plan.embedding_scale)
    # Skills are those of the weights as they are shipped.
    model.half().float()
    skills = {"backbone": name, "recipe": asdict(plan), **measure(model, lesson)}
    write_backbone(model, tokenizer, result, extra={SKILLS: json_bytes(skills)})
    return result


def _claim(folder: Path, name: str, plan: Recipe) -> None:
    """Note what the folder is for, or refuse one that is for something else."""
    wanted, note = {"backbone": name, "recipe": asdict(plan)}, folder / "recipe.json"
    if note.exists():
        if json.loads(note.read_text()) != wanted:
            raise BadInput(f"{folder} holds the pretraining of another recipe; choose a new --output")
    elif folder.exists() and any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty; choose a new --output")
    else:
        write_file(note, json_bytes(wanted), what="the recipe")


def _train(
    model: nn.Module,
    lesson: Lesson,
    plan: Recipe,
    checkpoints: Path,
    is_stopped: Callable[[], bool],
    show: Callable[[int, float], None],
) -> int:
    """Optimiser steps until the plan's end or until stopped; the number of the last."""
    # Decay on matrices only: it would pull norms and biases towards zero for nothing.
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.98))
    step = _restore(model, adamw, checkpoints)
    # Without dropout: rows never repeat, so there is nothing to overfit.
    model.eval()
    while step < plan.steps and not is_stopped():
        step += 1
        loss = model(**lesson.batch(plan.seed, step, plan.batch_size)).loss
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adamw.param_groups:
            group["lr"] = plan.lr * rate(step, plan.steps)
        adamw.step()
        show(step, loss.item())
        if step % SAVE_EVERY == 0:
            _save(model, adamw, checkpoints, step)
    if step % SAVE_EVERY:
        _save(model, adamw, checkpoints, step)
    return step


def rate(step: int, steps: int) -> float:
    """What the peak learning rate is multiplied with: warm-up, constant for half of the steps, linear to zero."""
    return min(step / WARMUP, 1.0, 2 * (steps - step + 1) / steps)


def _save(model: nn.Module, adamw: torch.optim.AdamW, folder: Path, step: int) -> None:
    names = dict(model.named_parameters())
    tensors: dict[str, Tensor] = {f"model/{name}": value.detach() for name, value in names.items()}
    for name, value in names.items():
        tensors |= {f"adamw/{key}/{name}": adamw.state[value][key] for key in ("exp_avg", "exp_avg_sq")}
    save_checkpoint(folder, step, tensors, {"step": step})


@torch.no_grad()
def _restore(model: nn.Module, adamw: torch.optim.AdamW, folder: Path) -> int:
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        return 0
    for name, value in model.named_parameters():
        value.copy_(checkpoint.tensors[f"model/{name}"])
        state = {key: checkpoint.tensors[f"adamw/{key}/{name}"].clone() for key in ("exp_avg", "exp_avg_sq")}
        adamw.state[value] = {"step": torch.tensor(float(checkpoint.step)), **state}
    return checkpoint.step


@contextlib.contextmanager
def _bar(show: bool, name: str, steps: int) -> Iterator[Callable[[int, float], None]]:
    """A bar with the running mean of the loss on standard error; nothing if not `show`."""
    if not show:
        yield lambda step, loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(f"pretraining {name}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]}"), console=Console(stderr=True)) as progress:
        task, mean = progress.add_task(name, total=steps, loss="-"), None

        def update(step: int, loss: float) -> None:
            nonlocal mean
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            progress.update(task, completed=step, loss=f"{mean:.3f}")

        yield update
