"""One arm of a comparison: what the seeds of one setting scored."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ...errors import BadInput
from ...tasks import row_names
from .. import StoredRun


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Scores of one setting, one entry a seed; None is what a run does not have, as are numbers that are not finite.

    Args:
        name: of the setting.
        seeds: what pairs are made by; no seed twice.
        scores: on the test rows, of the checkpoint that validation chose.
        chance: score of always answering the most frequent class, 0 for free text and numbers; None if not known.
        train_scores: the same prompts on their own training rows.
        train_losses: means over the last tenth of the steps.
        prompt_steps: optimiser steps taken, those of restarts that were not chosen among them.

    Raises:
        BadInput: a seed twice, or not one entry a seed.
    """

    name: str
    seeds: tuple[Hashable, ...]
    scores: tuple[float | None, ...]
    chance: float | None = None
    train_scores: tuple[float | None, ...] = ()
    train_losses: tuple[float | None, ...] = ()
    prompt_steps: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        """Refuse scores that cannot be paired by seed."""
        for name in ("scores", "train_scores", "train_losses"):
            known = (None if value is None or not math.isfinite(value) else value for value in getattr(self, name))
            object.__setattr__(self, name, tuple(known))
        if len(set(self.seeds)) < len(self.seeds):
            raise BadInput(
                f"setting {self.name!r} has a seed twice; runs that differ in more than the seed are not one"
            )
        columns = (
            self.scores,
            *(values or self.seeds for values in (self.train_scores, self.train_losses, self.prompt_steps)),
        )
        if any(len(column) != len(self.seeds) for column in columns):
            raise BadInput(f"setting {self.name!r} has {len(self.scores)} scores of {len(self.seeds)} seeds")

    @classmethod
    def of(cls, name: str, runs: Sequence[StoredRun]) -> "Arm":
        """The arm of stored runs that differ in their seeds alone.

        Raises:
            BadInput: runs of several tasks, or two of the same seeds.
        """
        tasks = sorted(set(row_names(run.spec.declared for run in runs).values()))
        if len(tasks) > 1:
            raise BadInput(f"setting {name!r} has runs of {', '.join(tasks)}; judge one task at a time")
        return cls(
            name=name,
            seeds=tuple(tuple(vars(run.spec.prompt.seeds).values()) for run in runs),
            scores=tuple(run.score for run in runs),
            chance=next((chance for run in runs if (chance := chance_of(run)) is not None), None),
            train_scores=tuple(run.metrics.get("train", {}).get("score") for run in runs),
            train_losses=tuple(last_loss(run) for run in runs),
            prompt_steps=tuple(run.prompt_steps for run in runs),
        )

    @property
    def scored(self) -> list[float]:
        """The scores without None."""
        return [score for score in self.scores if score is not None]


def chance_of(run: StoredRun) -> float | None:
    """The test score of always answering the most frequent class; 0 where answers are no classes."""
    return run.majority if run.spec.declared.answer == "label" else run.majority or 0.0


def last_loss(run: StoredRun) -> float | None:
    """The training loss, its mean over the last tenth of the recorded steps; None if there are none."""
    losses = [loss for loss in run.curve.get("loss", ()) if loss is not None]
    last = losses[-math.ceil(len(losses) / 10) :]
    return sum(last) / len(last) if last else None
