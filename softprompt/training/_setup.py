"""From a plan to what the loop needs: the backbone, the tokenised rows and the lanes, all before a byte is written."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..backbones import AbstractBackbone
from ..data import Ragged, Splits, few_shot, strata
from ..errors import BadInput, UnknownName
from ..inference.answers import decoding
from ..inference.evaluate import examples_for
from ..prompts import initializers
from ..prompts.initializers import Initializer
from ..prompts.methods import Method
from ..prompts.prompt import SoftPrompt
from ..prompts.trainable import Lane
from ..prompts.units import WordScale
from ..regularizers import regularizers
from ..settings import LaneSettings, TrainSettings
from ..tasks import Task
from ._loop import Material
from ._numbers import refuse_shots, refuse_unwritable, standardization
from ._plan import DEFAULT_STEPS, Plan
from ._restarts import beginnings, stretch_steps
from ._terms import Surroundings

# Training rows that are looked at for words to perturb.
CHECKED_ROWS = 256


def prepare(plan: Plan, splits: Splits, backbone: AbstractBackbone) -> Material:
    """The backbone, and the splits tokenised for it.

    Raises:
        SoftPromptError: anything in the plan that cannot work.
    """
    longest = max(Method.of(lane).prompt_length for lane in plan.lanes)
    if plan.settings.gradient_checkpointing:
        backbone.gradient_checkpointing(True)
    decoding(plan.task, backbone, plan.settings.decode)
    validation = splits.validation
    if plan.settings.eval_rows is not None and plan.settings.eval_rows < len(validation):
        validation = validation.select(range(plan.settings.eval_rows))
    train, validation, test = (
        examples_for(backbone, plan.task, rows, longest) for rows in (splits.train, validation, splits.test)
    )
    refuse_unwritable(train, plan.task, backbone, plan.settings.max_new_tokens)
    return Material(backbone=backbone, task=plan.task, train=train, validation=validation, test=test)


def fingerprint(material: Material) -> str:
    """SHA-256 over the token ids and targets of all splits: a resumed run must see the rows it started with."""
    digest = hashlib.sha256()
    for examples in (material.train, material.validation, material.test):
        targets = examples.targets
        parts = [examples.inputs.flat, examples.inputs.offsets]
        if isinstance(targets, Ragged):
            parts += [targets.flat, targets.offsets]
        elif targets is not None:
            parts.append(targets)
        for part in parts:
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()


def step_count(settings: TrainSettings, rows: int) -> int:
    """Optimiser steps of a run over `rows` training rows.

    steps, or ceil(epochs x rows / (batch_size x grad_accumulation)), or 1000.
    """
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is None:
        return DEFAULT_STEPS
    return max(1, math.ceil(settings.epochs * rows / (settings.batch_size * settings.grad_accumulation)))


def training_rows(material: Material, settings: TrainSettings, lane: LaneSettings) -> list[int]:
    """The training rows that a lane may see: all, or its own few-shot draw."""
    if settings.shots is None and settings.shots_per_class is None:
        return list(range(len(material.train)))
    refuse_shots(material.task)
    shots, per_class = settings.shots, False
    if shots is None:
        shots, per_class = settings.shots_per_class, True
    assert shots is not None
    return few_shot(strata(material.train.gold), shots=shots, per_class=per_class, seed=lane.seeds.draw)


def resolved(lane: LaneSettings) -> LaneSettings:
    """The lane with its method's units and learning rate where it names none; they are part of the run's record.

    Raises:
        SoftPromptError: no such method or regulariser, or options, units or a guard that it cannot have; a stretch
            without restarts.
    """
    if lane.restarts == 1 and lane.restart_steps is not None:
        raise BadInput(
            f"--restart-steps={lane.restart_steps} is how long restarts are compared, and there are none; "
            "give --restarts of 2 or more, or leave it out"
        )
    regularizers(lane.regularizer)
    return Method.of(lane).resolved(lane)


def refuse_twins(lanes: Sequence[LaneSettings]) -> None:
    """Refuse two prompts of a run that are the same numbers: their scores would count as those of two.

    Args:
        lanes: of `resolved`.

    Raises:
        BadInput: with their places.
    """
    seen: list[tuple[object, ...]] = []
    for place, lane in enumerate(lanes, 1):
        plain = replace(lane, options={}, regularizer="")
        key = (plain, Method.of(lane), regularizers(lane.regularizer))
        if key in seen:
            raise BadInput(
                f"prompts {seen.index(key) + 1} and {place} of this run are the same ({lane.method}, seed "
                f"{lane.seeds.initialization}); give each its own --seed, or leave one out"
            )
        seen.append(key)


def check_regularizers(plan: Plan, material: Material) -> None:
    """Refuse regularisers that would be quietly off, or measure nothing, here.

    Raises:
        BadInput: with what to do.
    """
    if not any(lane.regularizer for lane in plan.lanes):
        return
    surroundings = Surroundings.of(material.backbone, material.task)
    rows = range(min(CHECKED_ROWS, len(material.train)))
    batch = material.train.batch(rows, 0, material.backbone.pad_id).to(material.backbone.device)
    for lane in plan.lanes:
        surroundings.check(
            regularizers(lane.regularizer),
            material.task,
            batch,
            dropout=plan.settings.backbone_dropout,
            m=Method.of(lane).m,
        )


def head_shape(backbone: AbstractBackbone, task: Task) -> tuple[int, int] | None:
    """Shape [c, d] of a linear head for the task, or None where the backbone answers in tokens."""
    if backbone.answers != "linear-head":
        return None
    return (len(task.labels) if task.answer == "label" else 1, backbone.hidden_size)


def initializer(init: str, material: Material, m: int, unit: float = 1.0) -> Initializer:
    """The initialiser that a name stands for.

    Args:
        init: as in LaneSettings.
        material: backbone and task.
        m: vectors of the prompt.
        unit: of the lane. Uniform vectors are drawn in it; real ones are divided by it, so that they start as they are.

    Raises:
        UnknownName: no such initialiser.
        BadInput: the task has no label words, or the file cannot be read.
    """
    if init == "uniform":
        return initializers.uniform()
    return initializers.divided(_real_vectors(init, material, m), unit)


def _real_vectors(init: str, material: Material, m: int) -> Initializer:
    kind, _, argument = init.partition(":")
    tokenizer = material.backbone.tokenizer
    if kind == "vocabulary":
        return initializers.from_vocabulary()
    if kind == "label-words":
        if not material.task.labels:
            raise BadInput(f"--init=label-words: task {material.task.name!r} has no label words")
        return initializers.from_label_words(_word_ids(tokenizer, material.task.labels))
    if kind == "text" and argument:
        return initializers.from_tokens(_word_ids(tokenizer, [argument])[0])
    if kind in ("file", "prompt") and argument:
        return initializers.from_vectors(_vectors(kind, argument, material.backbone, m))
    raise UnknownName(
        "initialiser", init, ["uniform", "vocabulary", "label-words", "text:WORDS", "file:PATH", "prompt:PATH"]
    )


def _word_ids(tokenizer, words: Sequence[str]) -> list[list[int]]:
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    if not all(ids):
        raise BadInput(f"the tokenizer makes no token of {words[ids.index([])]!r}; initialise from other words")
    return ids


def _vectors(kind: str, path: str, backbone: AbstractBackbone, m: int):
    if kind == "file":
        from ..interop.numpy import import_numpy

        return import_numpy(Path(path), backbone_name=backbone.name).at_scale(backbone.embedding_scale).vectors
    source = _source(path, backbone)
    return source.expanded() if source.length == m else source.vectors


def _source(path: str, backbone: AbstractBackbone) -> SoftPrompt:
    """A stored prompt to start from, if it belongs to this backbone."""
    source = SoftPrompt.load(path).at_scale(backbone.embedding_scale)
    backbone.check(source)
    return source


def build_lanes(plan: Plan, material: Material) -> list[Lane]:
    """All lanes as they are at the beginning, each with its restarts behind it; nothing is written.

    Raises:
        SoftPromptError: an initialiser, a method or a regulariser that cannot work here; restarts that all begin alike,
            or a first stretch longer than the run.
    """
    check_regularizers(plan, material)
    if any(lane.restarts > 1 for lane in plan.lanes):
        steps = step_count(plan.settings, max(len(training_rows(material, plan.settings, lane)) for lane in plan.lanes))
        for lane in plan.lanes:
            stretch_steps(lane, steps)
    shape = head_shape(material.backbone, material.task)
    table = material.backbone.word_vectors
    words = WordScale.of(table)
    states = material.backbone.state_scales() if any(lane.deep for lane in plan.lanes) else []
    built = []
    for lane in map(resolved, plan.lanes):
        numbers = standardization(material, training_rows(material, plan.settings, lane))
        m = Method.of(lane).m
        draw, deeper = initializer(lane.init, material, m, _unit(lane, words)), _deeper(lane, material, m, states)
        candidates = [Lane.build(one, draw, table, shape, words, states, deeper, numbers) for one in beginnings(lane)]
        _refuse_alike(lane, candidates)
        built += candidates
    return built


def _refuse_alike(settings: LaneSettings, candidates: Sequence[Lane]) -> None:
    """Refuse restarts of a lane in which nothing is random: they would cost their time and choose nothing."""
    first = candidates[0].state_dict()
    for other in candidates[1:]:
        if all(torch.equal(first[name], value) for name, value in other.state_dict().items()):
            raise BadInput(
                f"--restarts={settings.restarts} of {settings.method!r} with --init={settings.init!r} all begin with "
                "the same numbers; take an initialisation that is random, as uniform or vocabulary, or no restarts"
            )


def _deeper(lane: LaneSettings, material: Material, m: int, states: Sequence[WordScale]) -> list[Initializer]:
    """What the layers after the first start from: a deep prompt's own, else nothing in particular.

    Raises:
        BadInput: a deep prompt to start from, most of which the lane would lose.
    """
    kind, _, path = lane.init.partition(":")
    source = _source(path, material.backbone) if kind == "prompt" else None
    if source is None or source.deep is None:
        return []
    if not lane.deep:
        raise BadInput(f"--init={lane.init!r}: that prompt has vectors for {source.layers} layers; give --deep")
    vectors = source.expanded_deep() if source.length == m else source.deep
    assert vectors is not None
    pairs = zip(vectors, states, strict=True)
    return [initializers.divided(initializers.from_vectors(v), _unit(lane, scale)) for v, scale in pairs]


def _unit(lane: LaneSettings, words: WordScale) -> float:
    """What initial vectors are measured in; a direction's too, whose length sets how fast it turns."""
    return words.rms if lane.units == "rms" else 1.0
