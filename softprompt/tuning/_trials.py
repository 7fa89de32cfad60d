"""Trials: what was proposed and what came of it, in a file of each wave. Proposals by Optuna's ask and tell."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..documents import check_shape, in_file
from ..errors import BadInput
from ..prompts.seeds import stream_seed
from ._kept import stored_values
from ._space import RATES, SHARED, Params, Space

State = Literal["finished", "dropped", "failed", "repeated"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate that was trained, or refused.

    Args:
        number: from 0, which is the default.
        params: what was proposed.
        state: "dropped" at a rung, "repeated" where another trial had the same settings.
        value: score on the choosing rows, the mean over folds of a finished trial; None where it has none.
        rungs: the best score until each rung that it reached, by step.
        steps: optimiser steps that it cost.
        note: why it failed, or which trial it repeats.
    """

    number: int
    params: Params
    state: State
    value: float | None = None
    rungs: Mapping[int, float] = field(default_factory=dict)
    steps: int = 0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**dataclasses.asdict(self), "rungs": {str(step): score for step, score in self.rungs.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Trial":
        """The trial that `to_json` wrote.

        Raises:
            BadInput: a value that it does not write.
        """
        check_shape(cls, values, rungs=Mapping[str, float])
        rungs = values.get("rungs", {})
        if not all(step.isdecimal() and step.isascii() for step in rungs):
            raise BadInput("the rungs of a trial are no steps; delete the search, and give the same command again")
        return cls(**{**values, "rungs": {int(step): score for step, score in rungs.items()}})


@dataclass(frozen=True, kw_only=True)
class Wave:
    """Candidates that were proposed together.

    Args:
        trials: how each ended.
        seconds: that they took.
    """

    trials: Sequence[Trial]
    seconds: float


def wave_folder(folder: Path, number: int) -> Path:
    """The folder of a wave of the search in `folder`."""
    return folder / "waves" / f"{number:03d}"


def read_waves(folder: Path) -> list[Wave]:
    """The waves that have ended, in their order.

    Raises:
        DamagedFile: a file of a wave is not as it was written.
        BadInput: it holds what is no wave.
    """
    waves: list[Wave] = []
    while (path := wave_folder(folder, len(waves)) / "told.json").is_file():
        values = stored_values(path)
        with in_file(path):
            check_shape(Wave, values, trials=Sequence[Mapping[str, Any]])
            waves.append(Wave(trials=[Trial.from_json(trial) for trial in values["trials"]], seconds=values["seconds"]))
    return waves


def refuse_no_optuna() -> None:
    """Refuse to search without Optuna.

    Raises:
        BadInput: with the extra that brings it.
    """
    try:
        import optuna  # noqa: F401  (whether it is there)
    except ImportError as error:
        raise BadInput(
            "softprompt tune proposes settings by Optuna, which is not installed; pip install 'softprompt[tune]'"
        ) from error


def proposals(space: Space, trials: Sequence[Trial], wave: int, count: int) -> list[Params]:
    """What to try next: first what helps most often, then what Optuna's TPE proposes, all of one shape.

    They follow from the trials before, the number of the wave and the seed alone, so that a search that was killed goes
    on as if it never was.

    Args:
        space: what may be proposed.
        trials: all before.
        wave: its number.
        count: how many.
    """
    if wave == 0:
        plain = space.default
        # One fleet: only what shares its shape.
        return [params for params in space.first() if all(params[name] == plain[name] for name in SHARED)][:count]
    import optuna

    with _quiet(optuna):
        sampler = optuna.samplers.TPESampler(seed=stream_seed(space.seed, f"wave/{wave}") % 2**32)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([_told(optuna, space, trial) for trial in trials if trial.value is not None])
        tried = [trial.params for trial in trials]
        if (other := next((params for params in space.first() if params not in tried), None)) is not None:
            study.enqueue_trial(other)
        first = _asked(study, space)
        shape = {name: first[name] for name in SHARED if len(space.choices[name]) > 1}
        for _ in range(count - 1):
            study.enqueue_trial(shape)
        return [first, *(_asked(study, space) for _ in range(count - 1))]


def _asked(study: Any, space: Space) -> Params:
    trial = study.ask()
    free = {n: trial.suggest_categorical(n, values) for n, values in space.choices.items() if len(values) > 1}
    fixed = {name: values[0] for name, values in space.choices.items() if len(values) == 1}
    return {**fixed, **free, "rate": float(f"{trial.suggest_float('rate', *RATES, log=True):.3g}")}


def _told(optuna: Any, space: Space, trial: Trial) -> Any:
    """A trial as Optuna knows it: one that was dropped counts with its value at its last rung."""
    distributions = {
        name: optuna.distributions.CategoricalDistribution(values)
        for name, values in space.choices.items()
        if len(values) > 1
    }
    distributions["rate"] = optuna.distributions.FloatDistribution(*RATES, log=True)
    is_whole = trial.state in ("finished", "repeated")
    states = optuna.trial.TrialState
    return optuna.trial.create_trial(
        state=states.COMPLETE if is_whole else states.PRUNED,
        value=trial.value,
        params={name: trial.params[name] for name in distributions},
        distributions=distributions,
        intermediate_values={} if is_whole else dict(trial.rungs),
    )


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Within, Optuna writes no line about each trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
