"""Minutes as steps and runs: how long a run may be so that a search, its choice and its report fit."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backbones import AbstractBackbone
from ..errors import BadInput
from ..run_layout import TIMING
from ..training import read_record
from ._kept import kept
from ._rows import GLANCE
from ._runs import fleet
from ._space import Candidate
from ._trials import Wave

MINUTES = 30.0
MOST_TRIALS = 400
# Steps of a run: as `softprompt train` does where there is time, and no fewer than a prompt needs to leave its start.
MOST_STEPS, FEWEST_STEPS = 1000, 30
# Trials that a run is made short enough for, and those without which a search is none.
PLANNED, FEWEST = 24, 8
EVALUATIONS = 5
# Steps between the two evaluations of the run that is timed.
TIMED = 3


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a search may do.

    Args:
        minutes: for everything; None where trials are counted.
        trials: in all; None where minutes are.
        folds: on which each candidate is trained.
        last: runs after the search: of the choice and of the report.
        steps: of a run.
        scoring: seconds in which the rows of the report are answered; 0 where trials are counted.
    """

    minutes: float | None
    trials: int | None
    folds: int
    last: int
    steps: int
    scoring: float = 0.0

    def is_spent(self, waves: Sequence[Wave]) -> bool:
        """Whether another wave would leave no time for the runs after the search; of minutes only."""
        if self.minutes is None:
            return False
        spent = sum((wave.seconds for wave in waves), 0.0)
        first = waves[0]
        whole_runs = sum(trial.steps for trial in first.trials) / self.steps
        rest = self.last * first.seconds / max(whole_runs, 1.0) + self.scoring
        return spent + spent / len(waves) + rest > 60 * self.minutes

    @property
    def most(self) -> int:
        """Trials after which the search ends whatever time is left."""
        return MOST_TRIALS if self.trials is None else self.trials


def runs_of(trials: int, folds: int) -> float:
    """About how many whole runs so many trials cost: of the halved ones a part, and only the others on all folds."""
    return 0.6 * trials + 0.4 * trials * (folds - 1)


def timed_steps(
    minutes: float, steps: int | None, folder: Path, default: Candidate, choosing: int, backbone: AbstractBackbone,
    *, folds: int, last: int, scored: int,
) -> tuple[int, float]:  # fmt: skip
    """How many steps a run has so that the search fits into so many minutes, and how many seconds the report takes.

    The seconds of a step are measured once, and kept.

    Args:
        minutes: for everything.
        steps: the user's; None takes as many as fit, at most 1000.
        folder: of the search.
        default: the settings that are timed.
        choosing: rows that an evaluation answers.
        backbone: frozen.
        folds: on which each candidate is trained.
        last: runs after the search.
        scored: rows of the report that are answered, over all runs.

    Raises:
        BadInput: not even a short search fits.
    """
    each: float = kept(folder / "step-seconds.json", lambda: _step_seconds(folder / "timed", default, backbone))
    # A step of training costs about three times as much as the forward passes of as many rows.
    rows = 3 * default.settings.batch_size
    evaluations, scoring = EVALUATIONS * choosing / rows, each * scored / rows

    def seconds(count: int, trials: int) -> float:
        return each * (count + evaluations) * (runs_of(trials, folds) + last) + scoring

    fitting = int((60 * minutes - scoring) / each / (runs_of(PLANNED, folds) + last) - evaluations)
    chosen = max(FEWEST_STEPS, min(MOST_STEPS, fitting)) if steps is None else steps
    needed = seconds(chosen, FEWEST) / 60
    if needed > minutes:
        raise BadInput(
            f"--minutes {minutes:g} is too short: {FEWEST} candidates of {chosen} steps and the runs that decide take "
            f"about {math.ceil(needed)} here; give more, fewer --steps or a smaller --batch-size"
        )
    return chosen, scoring


def _step_seconds(folder: Path, default: Candidate, backbone: AbstractBackbone) -> float:
    """Seconds of a step of the default prompt, after the first steps, which are slower."""
    settings = dataclasses.replace(
        default.settings, steps=2 * TIMED, eval_every=TIMED, eval_rows=GLANCE, warmup=None, patience=None
    )
    fleet(folder, dataclasses.replace(default, settings=settings), [default.prompt], backbone)
    *_, last = read_record(folder / TIMING)
    return max(1e-4, last["seconds"] / (TIMED + GLANCE / (3 * settings.batch_size)))
