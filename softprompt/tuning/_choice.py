"""The choice: the default stays, unless another candidate leads it convincingly with fresh seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone
from ..prompts.seeds import stream_seed
from ._measure import Answers, Measure, lead_measure
from ._runs import Fit, Repeat, answers_of, repeated
from ._space import Candidate, Space
from ._trials import Trial

# Candidates that are compared with the default, and seeds of each where rows are held out.
CHALLENGERS, SEEDS = 2, 3


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """A candidate compared with the default on the choosing rows, with seeds of which the search saw none.

    Args:
        trial: the candidate.
        lead: over the default; None where one of its runs was dropped.
    """

    trial: Trial
    lead: Measure | None

    @property
    def is_convincing(self) -> bool:
        """Whether the lead is larger than its standard error.

        Where the two are equal this chooses the candidate one time in six, and loses nothing by it.
        """
        return self.lead is not None and self.lead.mean > self.lead.error and self.lead.mean > 0


def fresh_seeds(seed: int, purpose: str, count: int) -> list[int]:
    """Seeds for one purpose, small enough to read; those of two purposes differ."""
    return [stream_seed(seed, f"{purpose}/{number}") % 10**6 for number in range(count)]


def choosing_repeats(seed: int, folds: int) -> list[Repeat]:
    """Where and with which seeds candidates are compared with the default: three seeds, or one on each fold."""
    if folds == 1:
        return [Repeat(fold=0, seed=fresh) for fresh in fresh_seeds(seed, "choice", SEEDS)]
    return [Repeat(fold=fold, seed=fresh) for fold, fresh in enumerate(fresh_seeds(seed, "choice", folds))]


def challengers(trials: Sequence[Trial]) -> list[Trial]:
    """The best candidates of the search, if they are better than the default there."""
    default = trials[0].value or 0.0
    finished = [trial for trial in trials[1:] if trial.state == "finished" and (trial.value or 0.0) > default]
    return sorted(finished, key=lambda trial: -(trial.value or 0.0))[:CHALLENGERS]


def chosen(
    folder: Path,
    space: Space,
    trials: Sequence[Trial],
    backbone: AbstractBackbone,
    folds: int,
    headline: Sequence[str],
    watch: Sequence[Any] = (),
) -> tuple[Trial, list[Challenge]]:
    """The trial whose settings win, and how each challenger did.

    Args:
        folder: of the search.
        space: of its candidates.
        trials: of the search, the default first.
        backbone: frozen.
        folds: how many.
        headline: the metrics of the score.
        watch: callbacks of the runs.
    """
    best = challengers(trials)
    if not best:
        return trials[0], []
    repeats = choosing_repeats(space.seed, folds)

    def answers(trial: Trial) -> list[Answers] | None:
        where = folder / "choice" / f"trial-{trial.number}"
        candidate: Candidate = space.candidate(trial.params)
        fits: list[Fit] = repeated(where, folder, candidate, repeats, backbone, callbacks=watch)
        if any(fit.score is None for fit in fits):
            return None
        return [answers_of(fit, "validation", backbone) for fit in fits]

    default = answers(trials[0])
    challenges = []
    for trial in best:
        ours = answers(trial)
        lead = (
            None if ours is None or default is None else lead_measure(headline, ours, default, are_same_rows=folds == 1)
        )
        challenges.append(Challenge(trial=trial, lead=lead))
    convincing = [challenge for challenge in challenges if challenge.is_convincing]
    winner = max(convincing, key=lambda c: c.lead.mean if c.lead else 0.0).trial if convincing else trials[0]
    return winner, challenges
