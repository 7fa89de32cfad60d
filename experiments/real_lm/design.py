"""What is trained in the study: cells of a task and a number of rows, and their pieces. The plan is in PLAN.md."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softprompt.settings import PromptSettings, Seeds, TrainSettings

from .arms import ARMS, SAME_RATE, Loss


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many rows a prompt learns from, and for how long.

    Args:
        shots_per_class: rows of each class, drawn by the seed; None with `shots`.
        shots: rows in all, drawn by the seed; None takes every row.
        steps: optimiser steps.
        batch_size: rows of a step.
        eval_rows: rows that choose the best prompt.
        seeds: number of seeds that are reported.
    """

    shots_per_class: int | None = None
    shots: int | None = None
    steps: int = 100
    batch_size: int = 8
    eval_rows: int = 32
    seeds: int = 8

    def with_steps(self, steps: int) -> "Size":
        """The same with another number of steps."""
        return dataclasses.replace(self, steps=steps)

    def settings(self, loss: Loss) -> TrainSettings:
        """The settings that all arms of this size share. The best prompt is chosen among four."""
        return TrainSettings(
            steps=self.steps,
            batch_size=self.batch_size,
            eval_every=max(1, self.steps // 4),
            eval_rows=self.eval_rows,
            shots=self.shots,
            shots_per_class=self.shots_per_class,
            loss=loss,
        )


@dataclass(frozen=True, kw_only=True)
class Try:
    """How much smaller a try of the whole way is; its numbers say nothing.

    Args:
        steps: optimiser steps of every run.
        scored_rows: rows that are scored.
        pieces: pieces of the rates, and of the study.
    """

    steps: int = 4
    scored_rows: int = 12
    pieces: int = 2


MANY = {"steps": 300, "batch_size": 16, "eval_rows": 200, "seeds": 5}
SIZES: Mapping[str, Size] = {
    "k8": Size(shots_per_class=8),
    "k16": Size(shots_per_class=16),
    "k32": Size(shots_per_class=32),
    # Whether the choice among four prompts is what limits: by as many rows as there are.
    "k32+300": Size(shots_per_class=32, eval_rows=300),
    "1000": Size(shots=1000, **MANY),
    "all": Size(**{**MANY, "eval_rows": 50}),
}


# Where every arm is trained; the other tasks get the core arms.
EVERY_ARM = (("glue/sst2", "k16"), ("glue/sst2", "k32"))
# In the order in which they are trained: what matters most comes first.
CELLS: Sequence[tuple[str, str]] = (
    ("glue/sst2", "k32"),
    ("glue/sst2", "k32+300"),
    ("glue/sst2", "1000"),
    ("super_glue/cb", "all"),
    ("glue/sst2", "k16"),
    ("super_glue/cb", "k8"),
    ("glue/rte", "k32"),
    ("glue/mrpc", "k32"),
    ("glue/mrpc", "1000"),
    ("glue/rte", "1000"),
    ("super_glue/boolq", "k32"),
    ("super_glue/boolq", "1000"),
    ("glue/rte", "k16"),
    ("glue/mrpc", "k16"),
    ("super_glue/boolq", "k16"),
    ("tickets", "k16"),
)
# What trains weights of the model has it to itself: fewer seeds, and not in every cell.
ALONE_SEEDS = 3
ALONE_CELLS = (("glue/sst2", "k32"), *((task, size) for task, size in CELLS if size in ("1000", "all")))
TASK_ORDER = tuple(dict.fromkeys(task for task, _ in CELLS))
# Rates are chosen on tasks and seeds that are not reported.
RATE_TASKS, RATE_SIZE, RATE_SEEDS = ("yelp", "glue/qqp"), "k32", (900, 901)

# The small form, which two cores can do: the rates that the product takes when none is given, the arms that answer most
# first, and three seeds of all of them before the next ones.
SMALL_ARMS = ("pt-instruction", "pt", "ept-star", "pt-tokens", "scaled", "ept-star-instruction", "lora", "rn", "ept",
              "restarts", "pt-examples", "examples-untrained", "pt-bare", "p-tuning", "deep", "ptp-rn", "residual",
              "adv", "adv-strong", "ptp-adv", "rn-text", "adv-text", "deep-rn", "restarts-instruction",
              "scaled-examples", "cpt", "full", "deep-adv")  # fmt: skip
SMALL_CORE = ("pt-instruction", "scaled", "ept-star", "pt")
SHOWN = ("pt-examples", "examples-untrained")
# A learning rate that changes no number, because 0 is refused.
STILL = 1e-30
# A third, once and three times the default rate of each method, on rows that are cheap: those of yelp are cut short.
SMALL_RATE_TASKS, SMALL_RATE_SEED = ("yelp-short", "glue/qqp"), 900
SMALL_RATES: Mapping[str, tuple[float, ...]] = {
    "pt-instruction": (0.01, 0.03, 0.1),
    "scaled": (0.3, 1.0, 3.0),
    "ept-star": (0.03, 0.1, 0.3),
    "pt": (0.1, 0.3, 1.0),
    "p-tuning": (0.01, 0.03, 0.1),
    "residual": (0.01, 0.03, 0.1),
    "ept": (0.03, 0.1, 0.3),
    "deep": (0.01, 0.03, 0.1),
    # Its prompts are long, and take three times as long; the second is the default here, too.
    "pt-examples": (0.01, 0.03),
}
SMALL_CELLS: Sequence[tuple[str, str, tuple[str, ...], tuple[int, ...]]] = (
    ("glue/sst2", "k32", SMALL_ARMS, (0, 1, 2)),
    ("super_glue/cb", "k8", (*SMALL_CORE, *SHOWN, "restarts", "restarts-instruction"), (0, 1, 2)),
    ("tickets", "k16", (*SMALL_CORE, *SHOWN, "restarts", "restarts-instruction", "lora"), (0, 1, 2)),
    ("glue/sst2", "1000", ("pt-instruction", "scaled"), (0, 1, 2)),
    ("glue/sst2", "k32+300", ("pt-instruction", "scaled"), (0, 1, 2)),
    ("glue/rte", "k32", ("pt-instruction", *SHOWN, "scaled"), (0, 1, 2)),
    ("glue/mrpc", "k32", ("pt-instruction", *SHOWN, "scaled"), (0, 1, 2)),
    ("super_glue/boolq", "k32", ("pt-instruction", *SHOWN, "scaled"), (0, 1, 2)),
    ("glue/sst2", "k32", SMALL_ARMS, (3, 4)),
    ("glue/sst2", "k16", SMALL_CORE, (0, 1, 2)),
)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Arms that are trained in shared passes, on the same task with the same number of rows.

    Args:
        task: a name of `tasks.TASK_NAMES`.
        size: a name in `SIZES`.
        arms: names in `ARMS`, all of one loss and one beginning.
        seeds: of every arm.
        rates: the learning rate of each arm; several while rates are chosen.
    """

    task: str
    size: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    rates: Mapping[str, tuple[float | None, ...]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name for files; pieces of one study differ in it."""
        first, last = self.arms[0], self.arms[-1]
        arms = first if len(self.arms) == 1 else f"{first}..{last}"
        return f"{self.task.replace('/', '-')}_{self.size}_{arms}_{self.seeds[0]}"

    @property
    def loss(self) -> Loss:
        """The loss of all its arms."""
        return ARMS[self.arms[0]].loss

    @property
    def bare(self) -> bool:
        """Whether its rows come without the instruction."""
        return ARMS[self.arms[0]].bare

    @property
    def untrained(self) -> bool:
        """Whether its prompts are scored as they begin."""
        return ARMS[self.arms[0]].untrained

    def prompts(self) -> list[tuple[str, PromptSettings]]:
        """Arm and settings of each prompt."""
        return [
            (arm, PromptSettings(**ARMS[arm].prompt, lr=rate, seeds=Seeds.all(seed)))
            for arm in self.arms
            for rate in ((STILL,) if self.untrained else self.rates.get(arm, (None,)))
            for seed in self.seeds
        ]


def rate_pieces(fleet: int) -> list[Piece]:
    """The pieces that choose the rates."""
    rates = {name: tuple(arm.rates) for name, arm in ARMS.items() if arm.rates}
    return [piece for task in RATE_TASKS for piece in _pieces(task, RATE_SIZE, list(rates), RATE_SEEDS, rates, fleet)]


def pieces(chosen: Mapping[str, float], fleet: int) -> list[Piece]:
    """The pieces of the study, in their order, with the rates that were chosen.

    Args:
        chosen: rate by arm; an arm without one takes its method's default.
        fleet: most prompts in a piece.
    """
    rates = {name: (chosen.get(SAME_RATE.get(name, name)),) for name in ARMS}
    return [
        piece
        for task, size in CELLS
        for piece in _pieces(task, size, _arms(task, size), tuple(range(SIZES[size].seeds)), rates, fleet)
    ]


def small_pieces() -> list[Piece]:
    """The pieces of the small form, in their order: one arm each, at the default rates of the methods."""
    return [
        Piece(task=task, size=size, arms=(arm,), seeds=own)
        for task, size, arms, seeds in SMALL_CELLS
        for arm in arms
        for own in _seeds_together(arm, seeds)
    ]


def small_rate_pieces() -> list[Piece]:
    """The pieces that hold the default rates against others, in their order: one arm each."""
    return [
        Piece(task=task, size=RATE_SIZE, arms=(arm,), seeds=(SMALL_RATE_SEED,), rates={arm: rates})
        for arm, rates in SMALL_RATES.items()
        for task in SMALL_RATE_TASKS
    ]


def _arms(task: str, size: str) -> list[str]:
    return [
        name
        for name, arm in ARMS.items()
        if ((task, size) in ALONE_CELLS if arm.alone else arm.core or (task, size) in EVERY_ARM)
    ]


def _pieces(
    task: str,
    size: str,
    names: Sequence[str],
    seeds: tuple[int, ...],
    rates: Mapping[str, tuple[float | None, ...]],
    fleet: int,
) -> Iterator[Piece]:
    """Pieces of at most `fleet` prompts, each of arms that can share their passes; an arm's seeds stay together."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name in names:
        groups.setdefault(_sharing(name), []).append(name)
    for group in groups.values():
        for arms in _filled(group, lambda name: len(rates[name]) * len(seeds), fleet):
            for own in _seeds_together(arms[0], seeds)[:ALONE_SEEDS]:
                yield Piece(task=task, size=size, arms=arms, seeds=own, rates={name: rates[name] for name in arms})


def _seeds_together(arm: str, seeds: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The seeds that share a piece: all of them, or each alone, because what trains weights has the model to itself."""
    return [(seed,) for seed in seeds] if ARMS[arm].alone else [seeds]


def _sharing(name: str) -> tuple[Any, ...]:
    """What has to be equal for arms to share a run; deep prompts cost more, and are among themselves."""
    arm = ARMS[name]
    return arm.loss, arm.begins, arm.bare, arm.untrained, bool(arm.prompt.get("deep")), name if arm.alone else ""


def _filled(names: Sequence[str], count: Callable[[str], int], fleet: int) -> Iterator[tuple[str, ...]]:
    """The names in groups of at most `fleet` prompts, candidates of restarts included."""
    waiting: list[str] = []
    prompts = 0
    for name in names:
        more = count(name) * ARMS[name].prompt.get("restarts", 1)
        if waiting and prompts + more > fleet:
            yield tuple(waiting)
            waiting, prompts = [], 0
        waiting.append(name)
        prompts += more
    yield tuple(waiting)
