"""How one prompt of a run ended: result.json, and the results of a run read again."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..documents import SEALED, check_shape, in_file, read_sealed
from ..errors import BadInput, DamagedFile, quoted
from ..legacy import renamed
from ..run_layout import RESULT, TIMING
from ..status import is_dropped, stop_reason
from ._plan import read_plan
from ._records import read_record

# Results of earlier versions say no format and have no checksum.
FORMAT = SEALED


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one prompt of a run ended.

    Args:
        run: folder of the run.
        prompt: the prompt's folder in it.
        task: name of the task.
        method: name of the method.
        seed: initialisation seed.
        units: "raw" or "rms".
        lr: learning rate of the prompt at its peak, in these units.
        metrics: by split, of the best checkpoint on validation.
        majority: score of always answering the most frequent class of the test rows, or their mean where an error is
            the score; None where there is neither.
        best_step: optimiser step of that checkpoint.
        trainable: trained parameters of prompt and reparameterisation.
        head: numbers of a linear head, trained and stored beside the prompt.
        stored: numbers stored for the prompt.
        norm: mean norm of the stored vectors, of a deep prompt those of the first layer; None without any.
        token_norms: the same in token norms.
        prompt_steps: optimiser steps taken, those of restarts that were not chosen among them.
        restarts: how the initialisation was chosen: the loss of each candidate, the number of the chosen one and its
            seed; None without restarts.
        calibration: temperature and bias of the label scores, and by split their score, negative log-likelihood in nats
            and calibration error before and after; None without calibration.
        seconds: wall time of the whole fleet so far.
        status: "finished", "stopped early ..." or "dropped ...".
        warnings: what a user should look at.
    """

    run: str
    prompt: str
    task: str
    method: str
    seed: int
    metrics: Mapping[str, Mapping[str, float | int]]
    best_step: int
    trainable: int
    head: int
    stored: int
    seconds: float
    status: str
    warnings: tuple[str, ...] = ()
    units: str | None = None
    lr: float | None = None
    majority: float | None = None
    norm: float | None = None
    token_norms: float | None = None
    prompt_steps: int | None = None
    restarts: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None

    @property
    def is_dropped(self) -> bool:
        """Whether training could not go on."""
        return is_dropped(self.status)

    @property
    def stop_reason(self) -> str:
        """Why a callback stopped the prompt; empty where none did, or none said why."""
        return stop_reason(self.status)

    def to_json(self) -> dict[str, Any]:
        """The line that `softprompt train --json` ends with."""
        return dataclasses.asdict(self)


def read_result(folder: Path, member: str) -> Result | None:
    """The result of a prompt of a run; None while it has not ended.

    Args:
        folder: of the run.
        member: name of the prompt, which is that of its folder.

    Raises:
        BadInput: it is of another version of the format.
        DamagedFile: it is not as it was written.
    """
    path = folder / member / RESULT
    if not path.exists():
        return None
    repair = f"delete it and --resume {quoted(folder)}"
    values = renamed(read_sealed(path, earlier_names=["metrics"], repair=repair))
    if values.pop("format", FORMAT) != FORMAT:
        raise BadInput(f"{path} is of another version of softprompt; upgrade it, or {repair}")
    values.pop("files", None)
    with in_file(path):
        check_shape(Result, {"run": "", "seconds": 0, **values}, metrics=Mapping[str, Mapping[str, int | float | None]])
    try:
        return Result(**{**values, "warnings": tuple(values["warnings"])}, run=str(folder), seconds=seconds_of(folder))
    except (TypeError, KeyError) as error:
        raise DamagedFile(f"{path} cannot be read ({error}); {repair}") from error


def read_results(run: "Path | str") -> list[Result]:
    """The results of a run's prompts that have ended, in the order of the run.

    Raises:
        BadInput: no run there.
        DamagedFile: a result cannot be read.
    """
    folder = Path(run)
    return [result for name in read_plan(folder).prompt_names() if (result := read_result(folder, name))]


def share_of(result: Result, results: Sequence[Result]) -> float:
    """The share of a run's wall time that one of its prompts took, in proportion to its steps.

    Args:
        result: of the prompt.
        results: of all prompts of the run.
    """
    steps = [each.prompt_steps or 0 for each in results]
    return result.seconds * ((result.prompt_steps or 0) / sum(steps) if sum(steps) else 1 / len(steps))


def seconds_of(folder: Path) -> float:
    """Wall time of the run over all its processes."""
    return round(sum((row["seconds"] for row in read_record(folder / TIMING)), 0.0), 3)
