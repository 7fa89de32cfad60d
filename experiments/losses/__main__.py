"""Losses over tokens, over labels, and both, on the built-in generating models: mean, spread and stuck share.

    python -m experiments.losses [--models lab-t5 lab-gpt] [--tasks lab/color ...] [--seeds 3] [--store DIR]

Each arm trains the same prompts on the same rows: the default method and rates, 300 steps, 64 rows, the best checkpoint
on 100 validation rows, scored on 300 test rows. Runs are kept in a store: it may be stopped and started again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common.places import RESULTS
from experiments.common.results import write_plain
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, StoredRun, compare, markdown, run_all, summary
from softprompt.tasks import TASKS, with_difficulty

LOSSES = ("tokens", "labels", "both")
MODELS = ("lab-t5", "lab-gpt")
TASK_NAMES = ("lab/opinion", "lab/same-color", "lab/weekend")
FIRST_SEED = 3000


def specs(arguments: argparse.Namespace) -> list[RunSpec]:
    """All runs of all arms."""
    return [
        RunSpec(
            task=with_difficulty(TASKS[name], validation=100, test=300),
            model=model,
            prompt=PromptSettings(method=arguments.method, seeds=Seeds.all(FIRST_SEED + seed)),
            settings=TrainSettings(steps=arguments.steps, eval_every=50, shots=arguments.shots, loss=loss),
            tags={"loss": loss},
        )
        for model in arguments.models
        for name in arguments.tasks
        for loss in LOSSES
        for seed in range(arguments.seeds)
    ]


def tables(runs: Sequence[StoredRun]) -> dict[str, list[dict[str, Any]]]:
    """By model and loss, by task too, and differences from the loss over tokens over pairs of task and seed."""
    return {
        "by model": summary(runs, by=("model", "loss")),
        "by task": summary(runs, by=("model", "task", "loss")),
        "against tokens": [
            {"model": model, **row}
            for model in dict.fromkeys(run.spec.model for run in runs)
            for row in compare([run for run in runs if run.spec.model == model], by="loss", baseline="tokens")
        ],
    }


def main() -> None:
    """Train what is missing, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--tasks", nargs="+", default=list(TASK_NAMES))
    parser.add_argument("--method", default=PromptSettings.method)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--shots", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", default="runs/losses")
    parser.add_argument("--results", type=Path, default=RESULTS / "losses.json")
    arguments = parser.parse_args()
    runs = run_all(specs(arguments), arguments.store)
    found = tables(runs)
    print(*map(markdown, found.values()), sep="\n\n")
    what = {name: value for name, value in vars(arguments).items() if name not in ("results", "store")}
    write_plain(arguments.results, {"what": what, **found})


if __name__ == "__main__":
    main()
