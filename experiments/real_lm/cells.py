"""A study of cells, each a model and a task, whose results are kept in one file as they come."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import softprompt
from softprompt.backbones import AbstractBackbone
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.tasks import Task
from softprompt.training import Result, without_advice

from ..common.places import RESULTS
from ..common.results import write_plain
from .tasks import task_of

Record = dict[str, Any]
# By the name of an arm, the record of each prompt.
Arms = dict[str, list[Record]]
# Takes the model's name, the task, the frozen model, the number of seeds, what the cell has so far, and what keeps it.
Measure = Callable[[str, Task, AbstractBackbone, int, Arms, Callable[[], None]], None]


def record_of(share: float, prompt: PromptSettings, result: Result) -> Record:
    """What a study keeps of a prompt that was trained at a rate, or at a share of one."""
    return {
        "share": share,
        "seed": prompt.seeds.initialization,
        **{split: scores["accuracy"] for split, scores in result.metrics.items()},
        "best_step": result.best_step,
    }


def train_prompts(
    task: Task,
    backbone: AbstractBackbone,
    prompts: Sequence[PromptSettings],
    settings: TrainSettings,
    shares: Sequence[float],
) -> list[Record]:
    """Train prompts side by side, and leave nothing but a record of each, with its rate or share of one."""
    with without_advice(), TemporaryDirectory() as folder:
        run = softprompt.train(task, backbone, prompts=prompts, settings=settings, output=Path(folder) / "run")
    return [record_of(*each) for each in zip(shares, prompts, run.results, strict=True)]


def measure_cells(name: str, about: str | None, cells: Sequence[str], measure: Measure) -> dict[str, Arms]:
    """Measure what the command line asks for; the results of all cells, which are in the file, too.

    Args:
        name: of the study, with which its files are called.
        about: its help.
        cells: "model:task", what is measured when the command line names none.
        measure: adds what is missing to one cell.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=list(cells))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs") / name.replace("_", "-"))
    parser.add_argument("--results", type=Path, default=RESULTS / f"{name}.json")
    arguments = parser.parse_args()
    path: Path = arguments.results
    results: dict[str, Arms] = json.loads(path.read_text())["cells"] if path.exists() else {}

    def keep() -> None:
        write_plain(path, {"cells": results})

    for cell in arguments.cells:
        model, _, _ = cell.partition(":")
        task, backbone = task_of(cell, arguments.data_root, arguments.work), softprompt.load_backbone(model)
        measure(model, task, backbone, arguments.seeds, results.setdefault(cell, {}), keep)
    return results
