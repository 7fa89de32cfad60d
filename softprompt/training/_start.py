"""The prompts of a run as they go into the loop: with optimisers, batches from the step on, records and provenance."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..data import stream
from ..inference.scoring_rule import scoring_for, with_loss
from ..prompts.contract import AbstractTrainable
from ..prompts.prompt import Provenance
from ..prompts.units import WordScale
from ..regularizers import regularizers
from ..settings import PromptSettings
from ._beginning import Beginning
from ._loop import RunData
from ._member import FleetMember
from ._optimizer import PromptOptimizer
from ._plan import Plan
from ._prepare import step_count, training_rows
from ._records import Record
from ._restarts import Race, race_steps, record_of
from ._words import beginnings_of


def start_members(
    plan: Plan,
    run_data: RunData,
    prompts: Sequence[AbstractTrainable],
    folder: Path,
    step: int = 0,
    states: Sequence[Mapping[str, Any]] = (),
) -> list[FleetMember]:
    """The prompts, or the candidates for one, with their optimisers, batches from `step` on, and records.

    Args:
        plan: prompts and settings.
        run_data: backbone and rows.
        prompts: of `build_prompts`.
        folder: of the run.
        step: optimiser steps done.
        states: what a checkpoint says of each of them; none begins anew.
    """
    started: list[FleetMember] = []
    try:
        started.extend(_started(plan, run_data, prompts, folder, step, states))
    except BaseException:
        for prompt in started:
            prompt.close()
        raise
    return started


def _started(
    plan: Plan,
    run_data: RunData,
    prompts: Sequence[AbstractTrainable],
    folder: Path,
    step: int,
    states: Sequence[Mapping[str, Any]],
) -> Iterator[FleetMember]:
    identity = run_data.backbone.identity()
    scoring = scoring_for(plan.settings, run_data.task, run_data.backbone).to_json()
    loss = with_loss(plan.settings, run_data.task, run_data.backbone).loss
    versions = {name: version(name) for name in ("softprompt", "torch", "transformers")}
    drawn = [training_rows(run_data, plan.settings, settings) for settings in plan.prompts]
    steps = step_count(plan.settings, max(map(len, drawn)))
    marks = {state["name"]: state["recorded_bytes"] for state in states}
    chosen = {state["name"]: state["restarts"]["chosen"] for state in states if "restarts" in state}
    begun = beginnings_of(plan, run_data.rows, run_data.backbone)
    for number, candidate, name, prompt, race, path in _entrants(plan, prompts, folder, steps, chosen, begun):
        settings = prompt.method.resolved(plan.prompts[number])
        assert settings.lr is not None
        provenance = Provenance(
            method=settings.method,
            backbone=identity,
            answers=run_data.backbone.answers,
            task=run_data.task.to_json(),
            seeds=vars(settings.seeds),
            training=_facts(settings, prompt, run_data, steps, loss),
            versions=versions,
            scoring=scoring,
        )
        yield FleetMember(
            name=name,
            settings=settings,
            trainable=prompt,
            optimizer=PromptOptimizer(prompt, settings.lr, settings.head_lr, steps, plan.settings),
            rows=drawn[number],
            batches=stream(
                run_data.train.lengths,
                drawn[number],
                plan.settings.batch_size,
                seed=settings.seeds.order,
                start=step * plan.settings.grad_accumulation,
                bucket=plan.settings.bucket,
            ),
            record=Record(path, marks.get(name, 0)),
            provenance=provenance,
            race=race,
            beginning=prompt.fold(provenance) if prompt.begins_at_words else None,
            shown_labels=begun[number][candidate].shown_labels,
        )


def _facts(
    settings: PromptSettings, prompt: AbstractTrainable, run_data: RunData, steps: int, loss: str
) -> dict[str, Any]:
    """What provenance says of the training, as plain values."""
    facts = {"lr": settings.lr, "head_lr": settings.head_lr, "steps": steps, "init": settings.init}
    facts |= {"units": settings.units, "max_norm": settings.max_norm, "options": dict(settings.options)}
    facts |= {name: given for name in ("max_shift", "context_loss") if (given := getattr(settings, name))}
    facts |= prompt.facts()
    if settings.regularizer:
        rms = facts.get("rms") or WordScale.of(run_data.backbone.word_vectors).rms
        facts |= _described(settings.regularizer, rms, run_data.backbone.embedding_size)
    if loss != "tokens":
        facts |= {"loss": loss}
    if run_data.backbone.quantize is not None:
        facts |= {"quantize": run_data.backbone.quantize}
    return facts


def _described(text: str, rms: float, e: int) -> dict[str, Any]:
    """The regularisers with all their numbers, sizes also in the model's own; nothing where there are none."""
    described = [{**term.to_json(), **term.perturbation.raw(rms, e)} for term in regularizers(text)]
    return {"regularizers": described} if described else {}


def _entrants(
    plan: Plan,
    prompts: Sequence[AbstractTrainable],
    folder: Path,
    steps: int,
    chosen: Mapping[str, int],
    begun: Sequence[Sequence[Beginning]],
) -> Iterator[tuple[int, int, str, AbstractTrainable, Race | None, Path]]:
    """What trains: each prompt, or its candidates while none is `chosen`; with numbers, name, race and record."""
    waiting = iter(prompts)
    for number, (name, settings) in enumerate(zip(plan.prompt_names(), plan.prompts, strict=True)):
        candidates = [next(waiting) for _ in range(settings.restarts)]
        if settings.restarts == 1 or name in chosen:
            winner = chosen.get(name, 0)
            yield number, winner, name, candidates[winner], None, folder / name / "metrics.jsonl"
            continue
        # Only the candidates of an instruction begin in different ways.
        inits = [way.settings.init for way in begun[number]] if settings.init == "instruction" else []
        race = Race(name, folder / name, race_steps(settings, steps), inits)
        for candidate, prompt in enumerate(candidates):
            yield number, candidate, f"{name}#{candidate}", prompt, race, record_of(folder / name, candidate)
