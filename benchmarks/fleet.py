"""What few-shot runs cost in a fleet: sixteen of one task that share passes beside the same one by one.

    SOFTPROMPT_DATA_ROOT=DATA python benchmarks/fleet.py [--models lab-t5-small smollm2]

A turn is one optimiser step of sixteen prompts, with four rows each: first in one fleet, then each alone, in the loop
that `softprompt train` runs, with the model's own engine, in one process and one thread, by CPU time. Each run draws
its own rows. The ratio is that of all sixteen alone to the fleet, so that 1 is the same cost and more is saved; it is
the median of neighbouring turns. Writes results/fleet.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "fleet.json"
FLEET, ROWS, SHOTS = 16, 4, 16
TASKS = {"lab-t5-small": "lab/opinion", "lab-gpt": "lab/opinion", "smollm2": "glue/sst2"}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(TASKS))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    found: dict[str, Any] = {"fleet": FLEET, "rows": ROWS, "torch": version("torch"), "cells": []}
    for model in arguments.models:
        found["cells"].append(cell(model, arguments.turns))
        print(json.dumps(found["cells"][-1]), flush=True)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def cell(model: str, turns: int) -> dict[str, Any]:
    """The ratios of one model."""
    from softprompt.backbones import load_backbone
    from softprompt.settings import PromptSettings, Seeds

    backbone = load_backbone(model)
    prompts = [PromptSettings(method="prompt-tuning", seeds=Seeds.all(seed)) for seed in range(FLEET)]
    with tempfile.TemporaryDirectory() as folder:
        together = loop_of(backbone, TASKS[model], prompts, Path(folder) / "fleet", turns)
        alone = [
            loop_of(backbone, TASKS[model], [prompt], Path(folder) / str(number), turns)
            for number, prompt in enumerate(prompts)
        ]
        # The first step of each is not counted.
        turns_of = [(seconds([together]), seconds(alone)) for _ in range(turns + 1)][1:]
        for loop in (together, *alone):
            for record in (loop.timing, *(member.record for member in loop.members)):
                record.close()
    ratios = [single / fleet for fleet, single in turns_of]
    return {
        "model": model, "task": TASKS[model], "engine": backbone.engine,
        "seconds of a run's step in the fleet": round(statistics.median(fleet for fleet, _ in turns_of) / FLEET, 4),
        "alone / fleet": [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))],
    }  # fmt: skip


def loop_of(backbone: Any, name: str, prompts: list[Any], folder: Path, turns: int) -> Any:
    """A training loop that has not begun, over few rows of a task."""
    from softprompt.data import load_rows, split_rows
    from softprompt.settings import TrainSettings
    from softprompt.tasks import task
    from softprompt.training._built import build_prompts
    from softprompt.training._loop import Loop
    from softprompt.training._plan import Plan
    from softprompt.training._prepare import prepare
    from softprompt.training._records import Record
    from softprompt.training._start import start_members

    settings = TrainSettings(steps=turns + 1, batch_size=ROWS, shots_per_class=SHOTS)
    plan = Plan(task=task(name), model=backbone.spec, prompts=tuple(prompts), settings=settings)
    rows = load_rows(plan.task, os.environ.get("SOFTPROMPT_DATA_ROOT"))
    run_data = prepare(plan, split_rows(plan.task, rows), backbone)
    folder.mkdir()
    members = list(start_members(run_data, build_prompts(run_data), folder, {}))
    return Loop(run_data, members, Record(folder / "timing.jsonl"))


def seconds(loops: list[Any]) -> float:
    """CPU seconds of the next step of all these loops."""
    began = time.process_time()
    for loop in loops:
        loop.take_step()
    return time.process_time() - began


if __name__ == "__main__":
    main()
