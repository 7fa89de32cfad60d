"""Callbacks: the user's own code that looks at a run while it trains, and may stop prompts of it.

A callback is any object with one or more of the methods `on_step(step)`, `on_evaluation(evaluation)`, `on_end(run)`.
It sees copies, so that nothing it does changes a number of a prompt that goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, CallbackFailed
from ..prompts.tuned import Stored
from ._records import read_record

if TYPE_CHECKING:
    from ._loop import Loop
    from ._run import Run

MOMENTS = ("on_step", "on_evaluation", "on_end")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a callback sees after an optimiser step.

    Args:
        step: the step, from 1.
        steps: optimiser steps of the whole run.
        losses: of each prompt that trains, in nats, or in squared deviations where a head answers with a number.
    """

    step: int
    steps: int
    losses: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a callback sees after the prompts were scored on validation rows.

    Args:
        step: the optimiser step after which they were scored.
        steps: optimiser steps of the whole run.
        scores: the score of each prompt that was scored now.
        best: the best score so far of each prompt that has one, those that train no longer among them.
    """

    step: int
    steps: int
    scores: Mapping[str, float]
    best: Mapping[str, float]
    _records: Mapping[str, Path] = field(repr=False)
    _stored: Callable[[str], Stored] = field(repr=False)
    _stopped: dict[str, str] = field(default_factory=dict, repr=False)

    def history(self, prompt: str) -> list[dict[str, Any]]:
        """The evaluations of a prompt so far, in their order: step, score and metrics.

        A run that was killed goes on with the same history, which a callback that counts for itself would lose.
        """
        return [row for row in read_record(self._records[prompt]) if row.get("split") == "validation"]

    def prompt(self, name: str) -> Stored:
        """A copy of a prompt as it is after this step, as it would be stored.

        Raises:
            BadInput: no prompt of this name was scored now.
        """
        self._refuse_unscored(name)
        return self._stored(name)

    def stop(self, prompt: str, reason: str = "") -> None:
        """End the training of a prompt after this evaluation; the best of it so far is kept.

        Raises:
            BadInput: no prompt of this name was scored now.
        """
        self._refuse_unscored(prompt)
        self._stopped[prompt] = reason

    def _refuse_unscored(self, name: str) -> None:
        if name not in self.scores:
            raise BadInput(f"no prompt {name!r} was scored now; name one of {', '.join(self.scores) or 'none'}")


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """A callback that ends the training of prompts which no longer get better, or are good enough.

    Args:
        patience: evaluations in a row without a better score after which a prompt stops; None never stops it for that.
        better_by: how much higher a score has to be to count as better.
        until: a score with which a prompt stops at once.

    Raises:
        BadInput: neither patience nor a score is given, or the patience is below 1.
    """

    patience: int | None = None
    better_by: float = 0.0
    until: float | None = None

    def __post_init__(self) -> None:
        """Refuse values with which training would never stop, or stop at once."""
        if (self.patience is None and self.until is None) or (self.patience is not None and self.patience < 1):
            raise BadInput(
                f"EarlyStopping has a patience of {self.patience} and a score `until` of {self.until}; give a patience "
                "of 1 or more, a score, or both"
            )

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Stop the prompts for which it is time."""
        for prompt, score in evaluation.scores.items():
            if self.until is not None and score >= self.until:
                evaluation.stop(prompt, f"its score reached {self.until:g}")
            elif self.patience is not None and self._stale(evaluation.history(prompt)) >= self.patience:
                evaluation.stop(prompt, f"no better score in {self.patience} evaluations")

    def _stale(self, history: Sequence[Mapping[str, Any]]) -> int:
        """Evaluations since the score was last better."""
        best, stale = float("-inf"), 0
        for row in history:
            is_better = row["score"] > best + self.better_by
            best, stale = (row["score"], 0) if is_better else (best, stale + 1)
        return stale


def refuse_no_callbacks(callbacks: Sequence[Any]) -> None:
    """Refuse objects without any of the three methods of a callback.

    Raises:
        BadInput: names the first.
    """
    for callback in callbacks:
        if isinstance(callback, type) or not any(callable(getattr(callback, moment, None)) for moment in MOMENTS):
            methods = f"{', '.join(MOMENTS[:-1])} or {MOMENTS[-1]}"
            raise BadInput(f"callback {name_of(callback)} is not an object with a method {methods}")


class Listeners:
    """The callbacks of a run, called in their order. The first that raises ends the run.

    Args:
        callbacks: any objects; each gets the moments that it has a method for.
        go_on: what a user types to continue the run.
    """

    def __init__(self, callbacks: Sequence[Any], go_on: str):
        self.callbacks, self.go_on = list(callbacks), go_on
        self.failure: CallbackFailed | None = None

    def step(self, loop: "Loop", losses: Mapping[str, float]) -> None:
        """Tell of an optimiser step."""
        if self.callbacks:
            self._tell("on_step", lambda: Step(step=loop.step, steps=loop.steps, losses=dict(losses)), loop.step)

    def evaluation(self, loop: "Loop") -> None:
        """Tell of an evaluation, and stop the prompts that a callback stops."""
        if not self.callbacks:
            return
        members = {member.name: member for member in loop.members}
        stopped: dict[str, str] = {}

        def event() -> Evaluation:
            scores = {name: member.scores[loop.step] for name, member in members.items() if loop.step in member.scores}
            best = {name: member.best_score for name, member in members.items() if member.best is not None}
            records = {name: member.record.path for name, member in members.items()}
            return Evaluation(
                step=loop.step,
                steps=loop.steps,
                scores=scores,
                best=best,
                _records=records,
                _stored=lambda name: members[name].trainable.fold(members[name].provenance),
                _stopped=stopped,
            )

        self._tell("on_evaluation", event, loop.step)
        for name, reason in stopped.items():
            # After the last step there is nothing to stop, and the run ends as it would without callbacks.
            if members[name].is_training and loop.step < loop.steps:
                members[name].stop(loop.step, reason)

    def end(self, run: "Run") -> None:
        """Tell of the end of the run, whose results are stored.

        Raises:
            CallbackFailed: a callback raises.
        """
        self._tell("on_end", lambda: run, None)
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise what a callback has raised, with its name.

        Raises:
            CallbackFailed: if one did.
        """
        if self.failure is not None:
            raise self.failure

    def _tell(self, moment: str, event: Callable[[], Any], step: int | None) -> None:
        for callback in self.callbacks:
            method = getattr(callback, moment, None)
            if method is None or self.failure is not None:
                continue
            try:
                # Each callback gets an event of its own: what one does to it, the next does not see.
                method(event())
            except Exception as error:
                self.failure = self._failed(callback, moment, step, error)

    def _failed(self, callback: Any, moment: str, step: int | None, error: Exception) -> CallbackFailed:
        when = "at the end; the run is finished" if step is None else f"at step {step}"
        left = "" if step is None else f"; a checkpoint is saved, go on with: {self.go_on}"
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        failure = CallbackFailed(f"callback {name_of(callback)}.{moment} failed {when} ({what}){left}")
        failure.__cause__ = error
        return failure


def name_of(callback: Any) -> str:
    """What messages call a callback: the name of its class."""
    kind = callback if isinstance(callback, type) else type(callback)
    return kind.__qualname__
