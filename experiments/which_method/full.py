"""Fine-tuning of every weight, as a ceiling: the same rows, batches, steps, schedule and decay as a prompt has.

Nothing here is offered to users: it exists to be compared with.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from softprompt.backbones import AbstractBackbone, load_backbone
from softprompt.data import Examples, load_rows, split_rows, stream
from softprompt.inference.answers import answer
from softprompt.inference.asked import default_style
from softprompt.inference.evaluate import report
from softprompt.inference.scoring import Scoring
from softprompt.losses import task_losses
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.prompt import LinearHead
from softprompt.prompts.trainable import seeded, stream_seed
from softprompt.store import json_bytes, read_json, write_file
from softprompt.study import RunSpec
from softprompt.tasks import TASKS, Task, styled
from softprompt.training import fast_denormals
from softprompt.training._loop import RunData
from softprompt.training._optimizer import learning_rate_factor, warmup_steps
from softprompt.training._plan import Plan
from softprompt.training._results import constant_score, own_rows
from softprompt.training._setup import head_shape, prepare, training_rows
from torch import nn

Found = dict[str, Any]


def fine_tuned(
    spec: RunSpec, store: "Path | str", *, data_root: "Path | str | None" = None, device: str = "auto"
) -> Found:
    """What `fine_tune` finds, from the folder `full` of the store if it was found before.

    Raises:
        SoftPromptError: as in `fine_tune`.
        DamagedFile: what is stored is not JSON.
    """
    # The spec's own name is that of its head alone.
    name = hashlib.sha256(f"full {spec.name}".encode()).hexdigest()[:16]
    path = Path(store) / "full" / f"{name}.json"
    if not path.is_file():
        found = fine_tune(spec, data_root=data_root, device=device)
        write_file(path, json_bytes(found), what="a fine-tuned run", replace=True)
    return read_json(path)


def fine_tune(spec: RunSpec, *, data_root: "Path | str | None" = None, device: str = "auto") -> Found:
    """Fine-tune every weight of a spec's model, without a prompt; scores and loss after the last step.

    AdamW with the learning rate, decay and schedule of the spec; a linear head, where one is needed, at the prompt's
    `head_lr`. The model's dropout is off, as it is for prompts. The spec's method has to be "linear-probe".

    Raises:
        SoftPromptError: as in `train`.
    """
    start = time.perf_counter()
    run_data = _run_data(spec, data_root, device)
    rows = training_rows(run_data, spec.settings, spec.prompt)
    head = _head(run_data, spec)
    with fast_denormals():
        losses = list(_losses(run_data, head, spec, rows))
        is_finite = math.isfinite(losses[-1])
        found = _scores(run_data, head, spec, rows) if is_finite else _NO_SCORES
    last = losses[-math.ceil(len(losses) / 10) :]
    return {
        **found,
        "loss": sum(last) / len(last) if is_finite else None,
        "steps": len(losses),
        "majority": constant_score(run_data.task, run_data.test.gold),
        "seconds": round(time.perf_counter() - start, 3),
        "status": "finished" if is_finite else f"dropped at step {len(losses)}: loss {losses[-1]}",
    }


_NO_SCORES: Found = {"score": None, "validation": None, "train": None}


def _run_data(spec: RunSpec, data_root: "Path | str | None", device: str) -> RunData:
    """The model with every weight to be trained, and the rows, as `train` has them."""
    splits = split_rows(spec.declared, load_rows(spec.declared, data_root, spec.max_bad_rows))
    # Packed passes have no gradient for the model's weights; asked for plainly, the fallback is no news in every run.
    backbone = load_backbone(dataclasses.replace(spec.frozen, device=device, engine="reference", quantize=None))
    plan = Plan(task=_task(spec, backbone.kind), model=backbone.spec, prompts=(spec.prompt,), settings=spec.settings)
    run_data = prepare(plan, splits, backbone)
    backbone.model.requires_grad_(True)
    return run_data


def _task(spec: RunSpec, kind: str) -> Task:
    task = spec.declared
    if task.name in TASKS:
        task = styled(task, spec.style or default_style(task, kind))
    length = spec.settings.max_length
    return task if length is None else dataclasses.replace(task, max_length=length)


def _head(run_data: RunData, spec: RunSpec) -> nn.Linear | None:
    """The head that a prompt of the same seed begins with."""
    shape = head_shape(run_data.backbone, run_data.task)
    if shape is None:
        return None
    with seeded(stream_seed(spec.prompt.seeds.initialization, "head"), torch.device("cpu")):
        return nn.Linear(shape[1], shape[0]).to(run_data.backbone.device)


def _losses(run_data: RunData, head: nn.Linear | None, spec: RunSpec, rows: Sequence[int]) -> Iterator[float]:
    """Train; the loss in nats before each step, up to the first that is not finite."""
    settings, backbone = spec.settings, run_data.backbone
    assert settings.steps is not None
    optimizer, warmup = _optimizer(backbone, head, spec), warmup_steps(settings, settings.steps)
    batches = stream(
        run_data.train.lengths, rows, settings.batch_size, seed=spec.prompt.seeds.order, bucket=settings.bucket
    )
    for step in range(1, settings.steps + 1):
        batch = run_data.train.batch(next(batches), 0, backbone.pad_id).to(backbone.device)
        assert batch.targets is not None
        optimizer.zero_grad(set_to_none=True)
        loss = task_losses(backbone.logits(_prompt_batch(backbone, head), batch), batch.targets).mean()
        yield loss.item()
        if not loss.isfinite():
            return
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_factor(step, settings.steps, warmup, settings.schedule)
        optimizer.step()


def _optimizer(backbone: AbstractBackbone, head: nn.Linear | None, spec: RunSpec) -> torch.optim.AdamW:
    lr, head_lr, decay = spec.prompt.lr, spec.prompt.head_lr, spec.settings.weight_decay
    groups = [{"params": list(backbone.model.parameters()), "lr": lr, "peak": lr, "weight_decay": decay}]
    if head is not None:
        groups.append({"params": list(head.parameters()), "lr": head_lr, "peak": head_lr, "weight_decay": 0.0})
    return torch.optim.AdamW(groups)


def _prompt_batch(backbone: AbstractBackbone, head: nn.Linear | None) -> PromptBatch:
    """No prompt, and the head."""
    nothing = torch.zeros(0, backbone.embedding_size, device=backbone.device)
    return PromptBatch.stack([nothing], [] if head is None else [LinearHead(head.weight, head.bias)])


def _scores(run_data: RunData, head: nn.Linear | None, spec: RunSpec, rows: Sequence[int]) -> Found:
    """On test, on validation, and where asked for on its own training rows."""
    found: Found = {"score": run_data.test, "validation": run_data.validation, "train": None}
    if spec.settings.train_score:
        found["train"] = run_data.train.select(own_rows(rows, spec.prompt.seeds.draw))
    return {name: None if seen is None else _score(run_data, head, spec, seen) for name, seen in found.items()}


def _score(run_data: RunData, head: nn.Linear | None, spec: RunSpec, examples: Examples) -> float:
    settings = spec.settings
    answers = answer(
        run_data.backbone,
        _prompt_batch(run_data.backbone, head),
        examples,
        run_data.task,
        decode=settings.decode,
        scoring=Scoring(normalize=settings.normalize),
        max_new_tokens=settings.max_new_tokens,
        batch_size=2 * settings.batch_size,
    )
    return report(run_data.task, examples, answers).metrics["score"]
