"""The lanes of a run as they go into the loop: with optimisers, batches from the step on, records and provenance."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..data import stream
from ..prompts.prompt import Provenance
from ..prompts.trainable import Lane
from ..regularizers import regularizers
from ._loop import Material
from ._member import TrainedLane
from ._optimizer import LaneOptimizer
from ._plan import Plan
from ._records import Record
from ._restarts import FirstStretch, record_of, stretch_steps
from ._setup import step_count, training_rows


def start_lanes(
    plan: Plan,
    material: Material,
    lanes: Sequence[Lane],
    folder: Path,
    step: int = 0,
    states: Sequence[Mapping[str, Any]] = (),
) -> list[TrainedLane]:
    """The lanes, or the candidates for one, with their optimisers, batches from `step` on, and records.

    Args:
        plan: lanes and settings.
        material: backbone and rows.
        lanes: of `build_lanes`.
        folder: of the run.
        step: optimiser steps done.
        states: what a checkpoint says of each of them; none begins anew.
    """
    started: list[TrainedLane] = []
    try:
        started.extend(_started(plan, material, lanes, folder, step, states))
    except BaseException:
        for lane in started:
            lane.close()
        raise
    return started


def _started(
    plan: Plan, material: Material, lanes: Sequence[Lane], folder: Path, step: int, states: Sequence[Mapping[str, Any]]
) -> Iterator[TrainedLane]:
    identity = material.backbone.identity()
    versions = {name: version(name) for name in ("softprompt", "torch", "transformers")}
    drawn = [training_rows(material, plan.settings, settings) for settings in plan.lanes]
    steps = step_count(plan.settings, max(map(len, drawn)))
    marks = {state["name"]: state["recorded_bytes"] for state in states}
    chosen = {state["name"]: state["restarts"]["chosen"] for state in states if "restarts" in state}
    for number, name, lane, stretch, path in _entrants(plan, lanes, folder, steps, chosen):
        settings = lane.method.resolved(plan.lanes[number])
        lr = settings.lr
        assert lr is not None
        training = {"lr": lr, "head_lr": settings.head_lr, "steps": steps, "init": settings.init}
        training |= {"units": settings.units, "norm_guard": settings.norm_guard, **vars(lane.words)}
        training |= _told(settings.regularizer, lane.words.rms, identity.embedding_size)
        trainable = lane.method.trainable(identity.embedding_size, lane.layers)
        training |= {"options": dict(settings.options), "trainable": trainable}
        if material.backbone.frozen is not None:
            training |= {"frozen": material.backbone.frozen}
        if lane.numbers:
            training |= lane.numbers.to_json()
        if lane.states:
            training |= {"deep": True, "state_rms": [scale.rms for scale in lane.states]}
        yield TrainedLane(
            name=name,
            settings=settings,
            lane=lane,
            optimizer=LaneOptimizer(lane, lr, settings.head_lr, steps, plan.settings),
            rows=drawn[number],
            batches=stream(
                material.train.lengths,
                drawn[number],
                plan.settings.batch_size,
                seed=settings.seeds.order,
                start=step * plan.settings.grad_accumulation,
                bucket=plan.settings.bucket,
                tokens_per_batch=plan.settings.tokens_per_batch,
            ),
            record=Record(path, marks.get(name, 0)),
            provenance=Provenance(
                method=settings.method,
                backbone=identity,
                answers=material.backbone.answers,
                task=material.task.to_json(),
                seeds=vars(settings.seeds),
                training=training,
                versions=versions,
            ),
            stretch=stretch,
        )


def _told(text: str, rms: float, e: int) -> dict[str, Any]:
    """The regularisers with all their numbers, sizes also in the model's own; nothing where there are none."""
    found = [{**one.to_json(), **one.perturbation.raw(rms, e)} for one in regularizers(text)]
    return {"regularizers": found} if found else {}


def _entrants(
    plan: Plan, lanes: Sequence[Lane], folder: Path, steps: int, chosen: Mapping[str, int]
) -> Iterator[tuple[int, str, Lane, FirstStretch | None, Path]]:
    """Who trains: each lane, or its restarts where none is `chosen` yet, with number, name, stretch and record."""
    waiting = iter(lanes)
    for number, (name, settings) in enumerate(zip(plan.lane_names(), plan.lanes, strict=True)):
        candidates = [next(waiting) for _ in range(settings.restarts)]
        if settings.restarts == 1 or name in chosen:
            yield number, name, candidates[chosen.get(name, 0)], None, folder / name / "metrics.jsonl"
            continue
        stretch = FirstStretch(name, folder / name, stretch_steps(settings, steps))
        for candidate, lane in enumerate(candidates):
            yield number, f"{name}#{candidate}", lane, stretch, record_of(folder / name, candidate)
