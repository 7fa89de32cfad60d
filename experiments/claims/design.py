"""The size of a study of the claims: tasks, seeds, steps and varied quantities, written before the runs."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from softprompt.errors import BadInput
from softprompt.settings import from_values
from softprompt.tasks import Task, with_difficulty
from softprompt.tasks import task as find_task

from ..real_lm.tasks import OWN, study_task

# Where a pilot (seed 900, 250 steps) saw one repeated vector learn at all by some method: on weekend, warm,
# topic-relabelled, side-relabelled and others only ten vectors do, and nothing about one vector would be seen there.
TASKS = ("lab/same-color", "lab/entailment", "lab/many")
# Seeds of the runs that are reported, and those on which learning rates are chosen: never the same.
FIRST_SEED = 3000
RATE_SEEDS = (900,)
# The papers' learning rate.
PAPER_RATE = 0.3
# Optimiser steps at which a norm is kept.
NORM_STEPS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)


@dataclass(frozen=True, kw_only=True)
class Design:
    """The tasks, seeds, steps and varied quantities of a study.

    Args:
        model: built-in backbone, folder or hub id.
        tasks: each run is of one of them.
        seeds: of each setting on each task.
        steps: optimiser steps.
        train_rows: to learn from; None is what the task has.
        validation_rows: by which learning rates are chosen.
        test_rows: scored and reported.
        first_rates: where the own learning rate of a setting is looked for first.
        ladder: the rates to which the search goes on while the best is at an edge.
        rates: learning rates of the claim about them.
        radii: fixed norms, in token norms.
        hidden: bottleneck sizes beside 1.
        repeats: lengths to which one trained vector is repeated.
        batch_size: rows of a step.
        units: of the learning rates, "raw" as in the papers, or "rms" (docs/methods.md).
        at_defaults: whether the own rate of a setting is its method's default, and the papers' rate is not tried.

    Raises:
        BadInput: nothing to try, or fewer than two seeds.
    """

    model: str = "lab-t5-small"
    tasks: tuple[str, ...] = TASKS
    seeds: int = 4
    steps: int = 250
    train_rows: int | None = None
    validation_rows: int = 200
    test_rows: int = 300
    first_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    ladder: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    radii: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    hidden: tuple[int, ...] = (10, 100)
    repeats: tuple[int, ...] = (1, 3, 10)
    batch_size: int = 16
    units: Literal["raw", "rms"] = "raw"
    at_defaults: bool = False

    def __post_init__(self) -> None:
        """Refuse a study that cannot show anything."""
        if not self.tasks or self.steps < 1:
            raise BadInput("a study of the claims needs at least one task and one step")
        if self.seeds < 2:
            raise BadInput(f"{self.seeds} seeds have no spread; the claims need at least 2, and 4 to see anything")

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds that are reported."""
        return tuple(range(FIRST_SEED, FIRST_SEED + self.seeds))

    @property
    def norm_steps(self) -> tuple[int, ...]:
        """The optimiser steps at which norms are kept, the last among them."""
        return (*(step for step in NORM_STEPS if step < self.steps), self.steps)

    def beyond(self, rate: float, way: int) -> float | None:
        """The next rate of the ladder above (1) or below (-1) a rate; None at its end."""
        further = [other for other in self.ladder if (other - rate) * way > 0]
        return min(further, key=lambda other: abs(other - rate), default=None)

    def task(self, name: str) -> Task:
        """A task of the lab with as many rows as the study scores, or one of `examples/`, as it is and not instructed.

        Raises:
            UnknownName: no such task.
            BadInput: a task whose rows cannot be made.
        """
        if name in OWN:
            return study_task(name, Path(), bare=True)
        few = {} if self.train_rows is None else {"train": self.train_rows}
        return with_difficulty(find_task(name), validation=self.validation_rows, test=self.test_rows, **few)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Design":
        """The design that `to_json` wrote.

        Raises:
            UnknownName: a setting that does not exist.
        """
        return from_values(cls, {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def refuse_other(self, other: "Design", where: object) -> None:
        """Refuse results of another study; more or fewer seeds are the same study.

        Raises:
            BadInput: names the first setting that differs.
        """
        ours, theirs = self.to_json(), other.to_json()
        for name in ours:
            if name != "seeds" and ours[name] != theirs[name]:
                raise BadInput(
                    f"{where} holds results of another study ({name} {theirs[name]}, not {ours[name]}); "
                    "give another --results"
                )


FULL = Design()
# The same claims on a real model, at default rates, on the one task of the real model's study that chose nothing there
# and has its rows in this repository (experiments/real_lm/PLAN.md).
REAL = Design(
    model="smollm2",
    tasks=("tickets",),
    seeds=6,
    steps=100,
    validation_rows=40,
    test_rows=100,
    rates=(0.03, 0.1, 0.3),
    radii=(0.1, 1.0, 10.0, 100.0),
    batch_size=8,
    units="rms",
    at_defaults=True,
)
# Under two minutes of one core. It shows that the machinery works.
QUICK = Design(
    tasks=("lab/entailment",),
    seeds=2,
    steps=20,
    train_rows=200,
    validation_rows=100,
    test_rows=100,
    first_rates=(0.1, 1.0),
    ladder=(0.1, 1.0),
    rates=(0.03, 0.3),
    radii=(0.1, 3.0, 100.0),
    hidden=(100,),
    repeats=(1, 10),
)
