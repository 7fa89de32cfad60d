"""Restarts: several beginnings of one prompt train side by side, and the one with the lowest training loss goes on.

A few-shot run that ends in a bad basin is seen in its training loss long before its end, so a beginning can be chosen
without any held-out row. The candidates differ in what follows from the initialisation seed (vectors, network, head)
and in nothing else: they see the same rows in the same order, so that their losses can be compared.

    PROMPT/restarts/0.jsonl ...      metrics of each candidate over the race
    PROMPT/restarts/chosen.json      the rule's outcome; also in the prompt's provenance and in result.json
    PROMPT/metrics.jsonl             the chosen one's, from its first step on
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from ..errors import BadInput
from ..prompts.trainable import stream_seed
from ..settings import PromptSettings
from ..store import json_bytes, write_file
from ._member import FleetMember, is_finite
from ._records import Record, read_record, recorded_steps

# Of the run's steps, and at the most: where our first trial found that the training loss predicts the test score.
SHARE, LONGEST = 0.4, 100
# Candidates are compared over the last fifth of the race.
WINDOW = 5


def race_steps(settings: PromptSettings, steps: int) -> int:
    """Optimiser steps of the race: `restart_steps`, or 40 % of the run, 100 at the most.

    Raises:
        BadInput: longer than the run.
    """
    if settings.restart_steps is None:
        return max(1, min(LONGEST, int(SHARE * steps)))
    if settings.restart_steps > steps:
        raise BadInput(
            f"--restart-steps={settings.restart_steps} is longer than the run of {steps} steps; give {steps} or fewer"
        )
    return settings.restart_steps


def beginnings(settings: PromptSettings) -> list[PromptSettings]:
    """The prompt as each of its candidates begins: the first with its own initialisation seed, others with derived ones.

    Candidate r > 0 has the seed `stream_seed(seed, "restart/r")`.
    """
    seed = settings.seeds.initialization
    others = [stream_seed(seed, f"restart/{number}") for number in range(1, settings.restarts)]
    return [
        dataclasses.replace(settings, seeds=dataclasses.replace(settings.seeds, initialization=one))
        for one in (seed, *others)
    ]


def record_of(folder: Path, candidate: int) -> Path:
    """Where the metrics of a candidate are, in the prompt's folder."""
    return folder / "restarts" / f"{candidate}.jsonl"


@final
class Race:
    """The steps over which the candidates of one prompt are compared, and the rule that chooses among them.

    The rule: the lowest mean training loss over the last fifth of the race, in nats, of the batches that all of them
    saw; of equal ones the first. No validation row has a part in it. A dropped candidate loses.

    Args:
        name: of the prompt.
        folder: of the prompt.
        steps: length.
    """

    def __init__(self, name: str, folder: Path, steps: int):
        self.name, self.folder, self.steps = name, folder, steps
        self.window = max(1, steps // WINDOW)

    def is_over(self, step: int, candidates: Sequence[FleetMember]) -> bool:
        """Whether one is chosen after this step: the race has ended, or every candidate was dropped."""
        return step >= self.steps or not any(one.is_training for one in candidates)

    def choose(self, step: int, candidates: Sequence[FleetMember]) -> FleetMember:
        """The candidate that goes on, as the prompt itself.

        It has its optimiser, its rows and a record of all its steps. If all were dropped, the one that lasted longest
        is the prompt's end.
        """
        for one in candidates:
            if one.is_training and not is_finite(one.trainable):
                one.drop(step, "the prompt is no longer finite")
            one.record.mark()
        rows = [list(read_record(one.record.path)) for one in candidates]
        losses = [self._loss(mine) if one.is_training else None for one, mine in zip(candidates, rows, strict=True)]
        left = {number: loss for number, loss in enumerate(losses) if loss is not None}
        chosen = min(left, key=left.__getitem__) if left else max(range(len(rows)), key=lambda n: len(rows[n]))
        outcome = self._outcome(candidates[chosen], losses, chosen)
        write_file(
            self.folder / "restarts" / "chosen.json",
            json_bytes(outcome),
            what=f"the choice among the restarts of {self.name}",
            replace=True,
        )
        for one in candidates:
            one.record.close()
            one.trainable.zero_grad(set_to_none=True)
        record = Record(self.folder / "metrics.jsonl")
        for row in rows[chosen]:
            record.write(row)
        return candidates[chosen].goes_on(self.name, record, outcome)

    def _loss(self, rows: Sequence[dict[str, Any]]) -> float:
        """Mean training loss over the last fifth of the race."""
        last = [row["loss"] for row in rows if "loss" in row and row["step"] > self.steps - self.window]
        return sum(last) / len(last)

    def _outcome(self, winner: FleetMember, losses: Sequence[float | None], chosen: int) -> dict[str, Any]:
        seeds = [one.seeds.initialization for one in beginnings(winner.settings)]
        values = {"count": len(losses), "steps": self.steps, "window": self.window, "losses": list(losses)}
        return {**values, "chosen": chosen, "initialization": seeds[chosen]}


def losers_steps(folder: Path, outcome: dict[str, Any] | None) -> int:
    """Optimiser steps of the candidates of a prompt that were not chosen; 0 for a prompt without restarts."""
    if outcome is None:
        return 0
    losers = [number for number in range(outcome["count"]) if number != outcome["chosen"]]
    return sum(recorded_steps(record_of(folder, number)) for number in losers)
