"""Restarts: several initialisations of one prompt race, and the one with the lowest training loss continues.

The training loss shows early whether a few-shot run ends in a bad basin, so no held-out row is needed for the choice.
The candidates differ only in what the initialisation seed determines (vectors, network, head). They see the same rows
in the same order, so that their losses can be compared.

    PROMPT/restarts/0.jsonl ...    metrics of each candidate during the race
    PROMPT/restarts/chosen.json    the outcome, also in the prompt's provenance and in result.json; lists these records
    PROMPT/metrics.jsonl           metrics of the chosen candidate, from its first step on
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from ..documents import SEALED, entry
from ..errors import BadInput
from ..prompts.seeds import stream_seed
from ..run_layout import CHOSEN, METRICS, RESTARTS
from ..settings import PromptSettings
from ..store import sealed_bytes, write_file
from ._member import FleetMember
from ._records import Record, read_record, recorded_steps

# Length of a race as a share of the run, and its maximum in steps. In our first trial the training loss at that point
# predicted the test score.
SHARE, LONGEST = 0.4, 100
# Labelled rows with which candidates of an instruction begin, and what they take where so many do not fit.
EXAMPLES, FEWER = 4, (2, 1)
# Candidates are compared over the last fifth of the race.
WINDOW = 5


def race_steps(settings: PromptSettings, steps: int) -> int:
    """Return the optimiser steps of the race: `restart_steps`, or 40 % of the run and at most 100.

    Raises:
        BadInput: `restart_steps` is longer than the run.
    """
    if settings.restart_steps is None:
        return max(1, min(LONGEST, int(SHARE * steps)))
    if settings.restart_steps > steps:
        raise BadInput(
            f"--restart-steps={settings.restart_steps} is longer than the run of {steps} steps; give {steps} or fewer"
        )
    return settings.restart_steps


def beginnings(settings: PromptSettings) -> list[PromptSettings]:
    """Return the settings of each candidate. The first has the initialisation seed of the prompt.

    Candidate r > 0 has the derived seed `stream_seed(seed, "restart/r")`. Of a prompt that begins as an instruction,
    candidates 1, 3 ... begin as labelled examples after it, and 2, 4 ... as random vectors after it.
    """
    seed = settings.seeds.initialization
    others = [stream_seed(seed, f"restart/{number}") for number in range(1, settings.restarts)]
    return [
        dataclasses.replace(
            settings,
            init=_init_of(settings.init, number),
            seeds=dataclasses.replace(settings.seeds, initialization=initialization),
        )
        for number, initialization in enumerate((seed, *others))
    ]


def _init_of(init: str, number: int) -> str:
    if init != "instruction" or number == 0:
        return init
    return f"examples:{EXAMPLES}" if number % 2 else "uniform"


def with_fewer_examples(settings: PromptSettings) -> list[PromptSettings]:
    """Return a candidate of an instruction as it is, and with fewer and fewer examples where it shows any."""
    counts = FEWER if settings.init == f"examples:{EXAMPLES}" else ()
    return [settings, *(dataclasses.replace(settings, init=f"examples:{count}") for count in counts)]


def record_of(folder: Path, candidate: int) -> Path:
    """Return the path of a candidate's metrics in the folder of the prompt."""
    return folder / RESTARTS / f"{candidate}.jsonl"


@final
class Race:
    """The steps in which the candidates of one prompt compete, and the rule that chooses among them.

    The candidate with the lowest mean training loss over the last fifth of the race wins. Of equal candidates
    the first wins. All candidates see the same batches, and no validation row is used. A dropped candidate loses.

    Args:
        name: name of the prompt.
        folder: folder of the prompt.
        steps: length of the race in optimiser steps.
        inits: what each candidate begins as, where that depends on the rows; empty is what the settings say.
    """

    def __init__(self, name: str, folder: Path, steps: int, inits: Sequence[str] = ()):
        self.name, self.folder, self.steps, self.inits = name, folder, steps, tuple(inits)
        self.window = max(1, steps // WINDOW)

    def is_over(self, step: int, candidates: Sequence[FleetMember]) -> bool:
        """Whether the race is over after this step: it reached its length, or every candidate was dropped."""
        return step >= self.steps or not any(candidate.is_training for candidate in candidates)

    def choose(self, step: int, candidates: Sequence[FleetMember]) -> FleetMember:
        """Choose the candidate that continues as the prompt itself.

        It keeps its optimiser, its rows and the record of all its steps. If every candidate was dropped, the one that
        lasted longest is chosen.
        """
        for candidate in candidates:
            if candidate.is_training and not candidate.trainable.is_finite():
                candidate.drop(step, "the prompt is no longer finite")
            candidate.record.mark()
        rows = [list(read_record(candidate.record.path)) for candidate in candidates]
        losses = [
            self._loss(record) if candidate.is_training else None
            for candidate, record in zip(candidates, rows, strict=True)
        ]
        trained = {number: loss for number, loss in enumerate(losses) if loss is not None}
        chosen = min(trained, key=trained.__getitem__) if trained else max(range(len(rows)), key=lambda n: len(rows[n]))
        outcome = self._outcome(candidates[chosen], losses, chosen)
        files = {path.name: entry(path.read_bytes()) for path in (candidate.record.path for candidate in candidates)}
        write_file(
            self.folder / RESTARTS / CHOSEN,
            sealed_bytes({"format": SEALED, **outcome, "files": files}),
            what=f"the choice among the restarts of {self.name}",
            replace=True,
        )
        for candidate in candidates:
            candidate.record.close()
            candidate.trainable.zero_grad(set_to_none=True)
        record = Record(self.folder / METRICS)
        for row in rows[chosen]:
            record.write(row)
        return candidates[chosen].goes_on(self.name, record, outcome)

    def _loss(self, rows: Sequence[dict[str, Any]]) -> float:
        """Return the mean training loss over the last fifth of the race."""
        last = [row["loss"] for row in rows if "loss" in row and row["step"] > self.steps - self.window]
        return sum(last) / len(last)

    def _outcome(self, winner: FleetMember, losses: Sequence[float | None], chosen: int) -> dict[str, Any]:
        began = beginnings(winner.settings)
        seeds = [settings.seeds.initialization for settings in began]
        inits = self.inits or [settings.init for settings in began]
        values = {"count": len(losses), "steps": self.steps, "window": self.window, "losses": list(losses)}
        # Said only where it says something: most candidates begin alike.
        init = {"init": inits[chosen]} if len(set(inits)) > 1 else {}
        return {**values, "chosen": chosen, "initialization": seeds[chosen], **init}


def losers_steps(folder: Path, outcome: dict[str, Any] | None) -> int:
    """Count the optimiser steps of the candidates that were not chosen; 0 for a prompt without restarts."""
    if outcome is None:
        return 0
    losers = [number for number in range(outcome["count"]) if number != outcome["chosen"]]
    return sum(recorded_steps(record_of(folder, number)) for number in losers)
