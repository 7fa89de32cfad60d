"""The loop of a run with its prompts in it: with optimisers, batches from the step on, records and provenance."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

from ..data import stream
from ..inference.scoring_rule import scoring_for, with_loss
from ..legacy import renamed
from ..prompts.contract import AbstractTrainable
from ..prompts.prompt import BackboneIdentity, Provenance
from ..prompts.tuned import below
from ..prompts.units import WordScale
from ..regularizers import regularizers
from ..run_layout import METRICS, TIMING
from ..settings import PromptSettings
from ..store import Checkpoint
from ._loop import Loop
from ._member import FleetMember
from ._optimizer import PromptOptimizer
from ._prepare import run_steps, training_rows
from ._processes import Processes
from ._records import Record
from ._restarts import Race, race_steps, record_of
from ._run_data import RunData
from .beginnings.beginning import Beginning


@contextlib.contextmanager
def open_loop(
    run_data: RunData,
    prompts: Sequence[AbstractTrainable],
    folder: Path,
    checkpoint: Checkpoint | None = None,
    processes: Processes | None = None,
) -> Iterator[Loop]:
    """Within, the loop of a run before its next step; afterwards its records are closed and dropout is off.

    Args:
        run_data: the run.
        prompts: of `build_prompts`.
        folder: where the records are.
        checkpoint: what the run goes on from; None begins anew.
        processes: that train the run together; None is this one alone.
    """
    state: Mapping[str, Any] = renamed(checkpoint.state) if checkpoint else {}
    with contextlib.ExitStack() as stack:
        members: list[FleetMember] = []
        for member in start_members(run_data, prompts, folder, state):
            stack.callback(member.close)
            members.append(member)
        timing = Record(folder / TIMING, state.get("timing_bytes", 0))
        stack.callback(timing.close)
        stack.callback(run_data.backbone.dropout, False)
        if checkpoint:
            for number, (member, values) in enumerate(zip(members, state["prompts"], strict=True)):
                member.restore(below(f"{number}/", checkpoint.tensors), values)
        loop = Loop(run_data, members, timing, processes)
        loop.step = state.get("step", 0)
        loop.memory_budget.restore(state.get("memory_budget", {}))
        yield loop


def start_members(
    run_data: RunData, prompts: Sequence[AbstractTrainable], folder: Path, state: Mapping[str, Any]
) -> Iterator[FleetMember]:
    """The prompts, or the candidates for one, with their optimisers, batches from the step on, and open records.

    Args:
        run_data: the run.
        prompts: of `build_prompts`.
        folder: where the records are.
        state: of a checkpoint; empty begins anew.
    """
    shared, members = _Shared.of(run_data), state.get("prompts", [])
    marks = {member["name"]: member["recorded_bytes"] for member in members}
    chosen = {member["name"]: member["restarts"]["chosen"] for member in members if "restarts" in member}
    for candidate in _candidates(run_data, prompts, folder, shared.steps, chosen):
        yield _member(candidate, run_data, shared, marks.get(candidate.name, 0), state.get("step", 0))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Shared:
    """What is equal for all members of a run: most of their provenance, and for how many steps they train."""

    backbone: BackboneIdentity
    scoring: Mapping[str, Any]
    loss: str
    versions: Mapping[str, str]
    steps: int

    @classmethod
    def of(cls, run_data: RunData) -> "_Shared":
        """What the members of this run share."""
        settings, task, backbone = run_data.plan.settings, run_data.task, run_data.backbone
        return cls(
            backbone=backbone.identity(),
            scoring=scoring_for(settings, task, backbone).to_json(),
            loss=with_loss(settings, task, backbone).loss,
            versions={name: version(name) for name in ("softprompt", "torch", "transformers")},
            steps=run_steps(run_data),
        )


def _member(candidate: "_Candidate", run_data: RunData, shared: _Shared, mark: int, step: int) -> FleetMember:
    """A candidate with its optimiser, its record up to so many bytes, and the batches that follow so many steps."""
    trainable, of_run = candidate.trainable, run_data.plan.settings
    settings = trainable.method.resolved(candidate.settings)
    assert settings.lr is not None
    rows = training_rows(run_data, settings)
    provenance = Provenance(
        method=settings.method,
        backbone=shared.backbone,
        answers=run_data.backbone.answers,
        task=run_data.task.to_json(),
        seeds=vars(settings.seeds),
        training=_facts(settings, trainable, run_data, shared.steps, shared.loss),
        versions=shared.versions,
        scoring=shared.scoring,
    )
    return FleetMember(
        name=candidate.name,
        settings=settings,
        trainable=trainable,
        optimizer=PromptOptimizer(trainable, settings.lr, settings.head_lr, shared.steps, of_run),
        rows=rows,
        batches=stream(
            run_data.train.lengths,
            rows,
            of_run.batch_size,
            seed=settings.seeds.order,
            start=step * of_run.grad_accumulation,
            bucket=of_run.bucket,
        ),
        record=Record(candidate.record, mark),
        provenance=provenance,
        race=candidate.race,
        beginning=trainable.fold(provenance) if trainable.begins_at_words else None,
        shown_labels=candidate.beginning.shown_labels,
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


@final
@dataclass(frozen=True, eq=False)
class _Candidate:
    """What trains: a prompt of the plan, or one of the beginnings that race for its place.

    Args:
        name: of the prompt; of one that races, with its number in the race.
        settings: of the prompt, as the plan has them.
        trainable: what the optimiser moves.
        beginning: what it began with.
        record: where its metrics are recorded.
        race: None where nothing is left to choose.
    """

    name: str
    settings: PromptSettings
    trainable: AbstractTrainable
    beginning: Beginning
    record: Path
    race: Race | None = None


def _candidates(
    run_data: RunData, prompts: Sequence[AbstractTrainable], folder: Path, steps: int, chosen: Mapping[str, int]
) -> Iterator[_Candidate]:
    """Each prompt, or its candidates while none is `chosen`."""
    plan, built = run_data.plan, iter(prompts)
    for name, settings, beginnings in zip(plan.prompt_names(), plan.prompts, run_data.beginnings, strict=True):
        ways = [(next(built), beginning) for beginning in beginnings]
        if settings.restarts == 1 or name in chosen:
            trainable, beginning = ways[chosen.get(name, 0)]
            yield _Candidate(name, settings, trainable, beginning, folder / name / METRICS)
            continue
        # Only the candidates of an instruction begin in different ways.
        inits = [way.settings.init for way in beginnings] if settings.init == "instruction" else []
        race = Race(name, folder / name, race_steps(settings, steps), inits)
        for number, (trainable, beginning) in enumerate(ways):
            record = record_of(folder / name, number)
            yield _Candidate(f"{name}#{number}", settings, trainable, beginning, record, race)
