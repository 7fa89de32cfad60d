"""What the frozen model scores without training: bare, with the hand-written instruction, and with examples."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt.backbones import AbstractBackbone
from softprompt.data import load_rows, split_rows
from softprompt.inference.frozen import baselines
from softprompt.settings import TrainSettings

from .design import Try
from .results import Folder
from .runs import held
from .tasks import cut_rows, study_task

# Labels are scored as by the arms whose loss is over labels, which nearly all are.
SCORED = TrainSettings(loss="labels")
# Baseline of the package -> its name in the results; those with examples say how many they are.
NAMES: Mapping[str, str] = {
    "majority": "majority",
    "frozen": "frozen",
    "instruction": "instruction",
}


def frozen_name(task: str) -> str:
    """The name of the file of a task's frozen scores."""
    return f"{task.replace('/', '-')}_frozen"


def score_frozen(
    name: str, backbone: AbstractBackbone, folder: Folder, data_root: Path, quick: Try | None = None
) -> None:
    """Score the frozen model on a task's test rows and keep the results; nothing where they are there, or on the way.

    Args:
        name: of the task.
        backbone: the frozen model.
        folder: results and rows.
        data_root: folder with the rows.
        quick: a try; None is the study itself.
    """
    with held(folder, frozen_name(name)) as is_ours:
        if not is_ours or folder.path(frozen_name(name)).is_file():
            return
        cut_rows(name, data_root, folder.rows, quick and quick.scored_rows)
        task = study_task(name, folder.rows)
        splits = split_rows(task, load_rows(task))
        draws: dict[str, list[float]] = {}
        for line in baselines(backbone, task, splits.test, splits.train, settings=SCORED, calibrate=quick is None):
            arm = NAMES.get(line.name, "examples")
            draws.setdefault(arm, []).append(line.score)
            if line.calibrated is not None:
                draws.setdefault(f"{arm}-calibrated", []).append(line.calibrated)
        values = {"task": name, "size": "frozen", "records": _records(draws), "rows": len(splits.test)}
        folder.write(frozen_name(name), values)


def _records(draws: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    return [{"arm": arm, "test": statistics.fmean(scores), "draws": list(scores)} for arm, scores in draws.items()]
