"""What a study will cost, before anything is trained: runs, fleets, and tokens and hours by measured steps."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings import DEFAULT_STEPS
from ._early import missing
from ._failed import failed_names
from ._fleets import group
from ._spec import RunSpec
from ._texts import canonical

# So many fleets are measured at most; the others are estimated from those of the same model.
MOST_MEASURED = 8


@dataclass(frozen=True)
class Part:
    """The runs of one task on one model.

    Args:
        task: its name.
        model: its name.
        runs: in the study.
        stored: of them in the store.
        failed: of them failed, and not tried again without being told to.
        fleets: that are left to train.
        steps: optimiser steps that are left, each of all prompts of a fleet; None where rows decide and are not read.
        tokens: positions of text and prompt that are left to pass through the model; None without a measurement.
        seconds: that one process needs for what is left; None without a measurement.
    """

    task: str
    model: str
    runs: int
    stored: int
    failed: int
    fleets: int
    steps: int | None
    tokens: int | None = None
    seconds: float | None = None


def plan(
    folder: "Path | str",
    specs: Sequence[RunSpec],
    *,
    fleet_size: int = 4,
    measured: bool = True,
    data_root: "Path | str | None" = None,
    device: str = "auto",
) -> list[Part]:
    """What is left of a study, by task and model.

    Args:
        folder: of the store; it is not written.
        specs: the runs.
        fleet_size: as in `run_all`.
        measured: load the models and time a few steps of some fleets.
        data_root: as in `run_all`.
        device: as in `run_all`.

    Raises:
        SoftPromptError: with `measured`, a run that cannot work.
    """
    store, unique = Path(folder), list({spec.name: spec for spec in specs}.values())
    failed = failed_names(store)
    left = [spec for spec in missing(store, unique) if spec.name not in failed]
    waiting = {spec.name for spec in left}
    fleets = group(left, fleet_size)
    costs = _Costs(fleets, store, data_root, device) if measured else None
    parts = []
    for key in dict.fromkeys(map(_place, unique)):
        members = [spec for spec in unique if _place(spec) == key]
        ours = [fleet for fleet in fleets if _place(fleet[0]) == key]
        away = sum(spec.name not in waiting and spec.name in failed for spec in members)
        stored = sum(spec.name not in waiting for spec in members) - away
        parts.append(Part(*key, len(members), stored, away, len(ours), **_cost(ours, costs)))
    return parts


def _place(spec: RunSpec) -> tuple[str, str]:
    return spec.declared.name, spec.model


def _cost(fleets: Sequence[tuple[RunSpec, ...]], costs: "_Costs | None") -> dict[str, Any]:
    if costs is not None:
        each = [costs.of(fleet) for fleet in fleets]
        return {name: sum(cost[name] for cost in each) for name in ("steps", "tokens", "seconds")}
    steps = [fleet[0].settings.steps or (None if fleet[0].settings.epochs else DEFAULT_STEPS) for fleet in fleets]
    return {"steps": None if None in steps else sum(step for step in steps if step)}


class _Costs:
    """Measured costs of fleets, and of others by the share of their prompts and steps.

    Args:
        fleets: all that are left.
        store: of the study.
        data_root: as in `run_all`.
        device: as in `run_all`.
    """

    def __init__(self, fleets: Sequence[tuple[RunSpec, ...]], store: Path, data_root: "Path | str | None", device: str):
        from ._work import Models

        models = Models(store, device)
        self.known: dict[tuple[Any, ...], tuple[int, Any]] = {}
        # The largest fleet of a kind, whatever the order: a prompt of a small one costs more.
        for fleet in sorted(fleets, key=len, reverse=True):
            key = _kind(fleet[0])
            if key not in self.known and len(self.known) < MOST_MEASURED:
                self.known[key] = len(fleet), _measured(fleet, models, data_root)

    def of(self, fleet: tuple[RunSpec, ...]) -> dict[str, int | float]:
        """Steps, tokens and seconds of a fleet."""
        kind = _kind(fleet[0])
        # Of a kind that was not measured, that which has most in common with it, its model first.
        key = max(self.known, key=lambda other: (other[0] == kind[0], sum(map(operator.eq, other, kind))))
        prompts, cost = self.known[key]
        steps = cost.steps_of(fleet[0].settings, len(fleet[0].declared.labels))
        share = len(fleet) / prompts * steps / cost.steps
        return {"steps": steps, "tokens": round(cost.tokens * share), "seconds": cost.seconds * share}


def _kind(spec: RunSpec) -> tuple[Any, ...]:
    """Equal for fleets whose steps and evaluations take about as long; the first part is the model."""
    prompt, settings = spec.prompt, spec.settings
    shape = (settings.batch_size, settings.grad_accumulation, settings.max_length, settings.gradient_checkpointing)
    judged = (settings.eval_every, settings.eval_rows)
    # A race is a larger share of a shorter run.
    race = prompt.restarts > 1 and (prompt.restarts, prompt.restart_steps, settings.steps, settings.epochs)
    trained = (prompt.method, canonical(prompt.options), prompt.deep, bool(prompt.regularizer), race)
    return (spec.model, spec.frozen, spec.declared.name, *shape, *judged, *trained)


def _measured(fleet: tuple[RunSpec, ...], models: Any, data_root: "Path | str | None") -> Any:
    from ..training import measure
    from ._early import named
    from ._work import style_of

    first = fleet[0]
    with named(fleet):
        backbone = models.of(first)
        return measure(
            first.declared,
            backbone,
            [spec.prompt for spec in fleet],
            first.settings,
            data_root=data_root,
            style=style_of(first, backbone.kind),
            max_bad_rows=first.max_bad_rows,
        )
