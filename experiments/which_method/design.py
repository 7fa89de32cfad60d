"""What is run: frozen models and how their rates are chosen, and parts, each a product of tasks, methods and seeds."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from softprompt.errors import BadInput, UnknownName
from softprompt.tasks import TASKS, Task, with_difficulty

from .candidates import CANDIDATES, DEFAULT, FULL, HEAD, REFERENCE

# Reported seeds begin here; rates are chosen on others.
FIRST = 2000
ENTAILMENT, RELABELLED = "lab/entailment", "lab/topic-relabelled"
# One and two tasks of every family.
CORE_TASKS = (
    ENTAILMENT, RELABELLED, "lab/weekend", "lab/purchase", "lab/same-color", "lab/side-relabelled", "lab/many",
    "lab/topic",
)  # fmt: skip
ROWS = {"validation": 32, "test": 300}
# Rows of a trial: enough validation rows to choose a rate, and few test rows, which are not used.
TRIAL_ROWS = {"validation": 300, "test": 16}
REAL = "minilm"
REAL_TASKS = ("glue/sst2", "glue/cola", "glue/mrpc", "glue/rte")


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A frozen model, and the runs on which its methods' learning rates are chosen.

    Args:
        scale: RMS of its word embeddings, about, as it is shipped; None leaves it as it is for every method.
        tasks: of the trials.
        seeds: of the trials, never reported.
        steps: of the trials.
        max_length: tokens of text; None takes the task's.
        rates: first grids that differ from the methods' own.
    """

    scale: float | None
    tasks: tuple[str, ...] = (ENTAILMENT, RELABELLED)
    seeds: tuple[int, ...] = (900,)
    steps: int = 250
    max_length: int | None = None
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def first_rates(self, candidate: str) -> tuple[float, ...]:
        """Where the grid of a method begins."""
        return self.rates.get(candidate, CANDIDATES[candidate].rates)

    def most_rates(self, candidate: str, tried: int) -> int:
        """How far the grid may grow: to `tried` rates, and not at all where the rate is fixed."""
        return len(self.first_rates(candidate)) if CANDIDATES[candidate].is_fixed else tried


@dataclass(frozen=True, kw_only=True)
class Part:
    """A product of tasks, methods and seeds at one length of training.

    Args:
        models: names in the design's models.
        tasks: names in TASKS.
        candidates: names in CANDIDATES.
        seeds: of the whole part.
        block: seeds that all tasks and methods get before any gets the next.
        steps: optimiser steps.
        shots: training rows, drawn by the seed; None is all.
        dropout: the frozen model's own.
        start: how many rounds of blocks the other parts have before its first.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    candidates: tuple[str, ...]
    seeds: tuple[int, ...]
    block: int = 1
    steps: int = 250
    shots: int | None = None
    dropout: bool = False
    start: int = 0

    def block_of(self, number: int) -> tuple[int, ...]:
        """The seeds of a round, from 0; empty before the first block and after the last."""
        first = (number - self.start) * self.block
        return self.seeds[first : first + self.block] if first >= 0 else ()

    @property
    def rounds(self) -> int:
        """Rounds until its last block is done."""
        return self.start - len(self.seeds) // -self.block


@dataclass(frozen=True, kw_only=True)
class Design:
    """A whole study.

    Args:
        models: by the name that results have them under.
        parts: by name, the most informative first.
        tried: most learning rates of one method on one model.
    """

    models: Mapping[str, Frozen]
    parts: Mapping[str, Part]
    tried: int = 8

    def only(self, tasks: Sequence[str] = (), seeds: int | None = None) -> "Design":
        """The design with fewer tasks, or another number of seeds.

        Raises:
            UnknownName: a task in no part.
            BadInput: less than one seed.
        """
        known = {task for part in self.parts.values() for task in part.tasks}
        for task in tasks:
            if task not in known:
                raise UnknownName("task of the confirmation study", task, known)
        if seeds is not None and seeds < 1:
            raise BadInput(f"--seeds must be positive, not {seeds}")
        parts = {
            name: dataclasses.replace(
                part,
                tasks=tuple(task for task in part.tasks if not tasks or task in tasks),
                seeds=part.seeds if seeds is None else _seeds(seeds),
            )
            for name, part in self.parts.items()
        }
        return dataclasses.replace(self, parts=parts)

    def with_encoder(self, source: str | None) -> "Design":
        """The design with another real encoder, under the last part of its name; None leaves it as it is.

        Raises:
            BadInput: its name is that of another model of the design.
        """
        if source is None:
            return self
        name = Path(source).name
        if name in {*self.models, ""} - {REAL}:
            raise BadInput(f"--model {source!r} is the real encoder's, and needs a name of its own; rename the folder")

        def renamed(model: str) -> str:
            return name if model == REAL else model

        parts = {
            key: dataclasses.replace(part, models=tuple(map(renamed, part.models))) for key, part in self.parts.items()
        }
        models = {renamed(model): frozen for model, frozen in self.models.items()}
        return dataclasses.replace(self, models=models, parts=parts)


def _seeds(count: int) -> tuple[int, ...]:
    return tuple(range(FIRST, FIRST + count))


_AT_T5 = tuple(name for name in CANDIDATES if "@" not in name and name != HEAD)
_SIZES = ("prompt-tuning", "prompt-tuning-rms", DEFAULT, "scaled", "ept-star", "p-tuning", FULL)
_KINDS = (
    "prompt-tuning", "prompt-tuning@s=1", "prompt-tuning-rms", DEFAULT, "ept-star", "ept-star@s=1", "scaled", FULL,
)  # fmt: skip
_REAL = (HEAD, "prompt-tuning", DEFAULT, "residual", "ept", "ept-star", "scaled", FULL)
_OF_KINDS = ("lab/weekend", RELABELLED, "lab/number")

_FROZEN = {
    "lab-t5-small": Frozen(scale=32.0, seeds=(900, 901)),
    "lab-t5": Frozen(scale=32.0),
    # These have not learned to compare two texts (docs/lab.md).
    "lab-bert": Frozen(scale=1.0, tasks=("lab/weekend", RELABELLED)),
    "lab-gpt": Frozen(scale=1.0, tasks=("lab/weekend", RELABELLED)),
    # A quarter of the reported steps: a step costs half a second.
    REAL: Frozen(scale=None, tasks=("glue/sst2",), steps=100, max_length=128, rates={FULL: (3e-5, 1e-4, 3e-4)}),
}
_PARTS = {
    "core": Part(
        models=("lab-t5-small",),
        tasks=CORE_TASKS,
        candidates=tuple(name for name in CANDIDATES if name != HEAD),
        seeds=_seeds(10),
        block=2,
    ),
    "fewshot": Part(
        models=("lab-t5-small",),
        tasks=("lab/entailment", "lab/same-color", "lab/weekend"),
        candidates=_AT_T5,
        seeds=_seeds(10),
        block=2,
        shots=32,
    ),
    "kinds": Part(models=("lab-bert", "lab-gpt"), tasks=_OF_KINDS, candidates=_KINDS, seeds=_seeds(5)),
    "dropout": Part(
        models=("lab-t5-small",),
        tasks=(ENTAILMENT, "lab/weekend"),
        candidates=("prompt-tuning", "scaled", "ept-star", "p-tuning"),
        seeds=_seeds(5),
        dropout=True,
    ),
    "size": Part(models=("lab-t5",), tasks=CORE_TASKS[:3], candidates=_SIZES, seeds=_seeds(5)),
    "longest": Part(
        models=("lab-t5-small",),
        tasks=CORE_TASKS[1:3],
        candidates=("prompt-tuning", "ept-star", "ept"),
        seeds=_seeds(3),
        steps=4000,
    ),
    "long": Part(models=("lab-t5-small",), tasks=CORE_TASKS, candidates=_AT_T5, seeds=_seeds(3), steps=1000, start=1),
    "real": Part(models=(REAL,), tasks=REAL_TASKS, candidates=_REAL, seeds=_seeds(3), steps=400),
}
DESIGN = Design(models=_FROZEN, parts=_PARTS)
# A few steps of two tasks, to see that the study runs.
QUICK = Design(
    models={"lab-t5-small": Frozen(scale=32.0, tasks=("lab/opinion",), steps=20)},
    parts={
        "core": Part(
            models=("lab-t5-small",),
            tasks=("lab/opinion", "lab/topic"),
            candidates=(REFERENCE, "scaled", FULL),
            seeds=_seeds(2),
            steps=20,
        )
    },
    tried=3,
)


def rows_of(name: str, *, trial: bool = False) -> Task:
    """A lab task with as many rows to score as are needed; others as they are."""
    task = TASKS[name]
    return with_difficulty(task, **(TRIAL_ROWS if trial else ROWS)) if task.source.world else task
