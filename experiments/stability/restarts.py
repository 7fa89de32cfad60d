"""Restarts against single runs in few-shot training, at equal steps and at equal cost, on a built-in T5.

    python -m experiments.stability.restarts [--model lab-t5-small] [--method prompt-tuning] [--seeds 12] [--store DIR]

Cost is counted in prompt steps: R x race + what is left of the run. Three comparisons, all on the same seeds, which
vary initialisation, order and few-shot draw together:

    equal steps     R = 1, 3, 5, 8 with 250 steps each; restarts cost more
    equal cost      R = 3, 5, 8 with fewer steps, so that each costs no more than one run of 250 steps
    longer single   R = 1 with as many steps as each R of the first comparison costs, in pairs with that R

64 rows a prompt, 16 a batch, linear decay, the last step (no checkpoint selection), accuracy on 300 test rows. Also
told: Spearman's correlation of a single run's training loss, where restarts would be compared, with its test score.
Runs are kept in a store: it may be stopped and started again.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, StoredRun, compare, markdown, run_all, summary
from softprompt.tasks import TASKS, with_difficulty

from ..common.results import write_plain

# The few-shot tasks of experiments/stability/study.py whose seeds disagree.
TASK_NAMES = ("lab/weekend", "lab/same-color")
COUNTS, STEPS, SHOTS = (3, 5, 8), 250, 64
# As the product's default, written out: the cost of an arm has to be known before it is run.
SHARE, LONGEST, WINDOW = 0.4, 100, 5


def race(steps: int) -> int:
    """Optimiser steps over which restarts are compared."""
    return max(1, min(LONGEST, int(SHARE * steps)))


def cost(restarts: int, steps: int) -> int:
    """Prompt steps of a run."""
    return steps if restarts == 1 else restarts * race(steps) + steps - race(steps)


def arms(steps: int) -> dict[str, tuple[int, int]]:
    """Row of the table -> restarts and steps."""
    by_row = {f"1 x {steps} steps": (1, steps)}
    by_row |= {f"{r} restarts, equal steps": (r, steps) for r in COUNTS}
    for r in COUNTS:
        fewer = max(n for n in range(1, steps + 1) if cost(r, n) <= steps)
        by_row[f"{r} restarts, equal cost"] = (r, fewer)
    return by_row | {f"1, at the cost of {r} restarts": (1, cost(r, steps)) for r in COUNTS}


def specs(arguments: argparse.Namespace) -> list[RunSpec]:
    """All runs of all arms."""
    made = []
    for row, (restarts, steps) in arms(arguments.steps).items():
        settings = TrainSettings(steps=steps, eval_every=steps, shots=SHOTS)
        many = restarts > 1
        for name in arguments.tasks:
            task = with_difficulty(TASKS[name], validation=32, test=300)
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                prompt = PromptSettings(
                    method=arguments.method,
                    units="raw",
                    lr=arguments.lr,
                    restarts=restarts,
                    restart_steps=race(steps) if many else None,
                    seeds=Seeds.all(seed),
                )
                tags = {"row": row, "cost": cost(restarts, steps), "steps": steps}
                made.append(RunSpec(task=task, model=arguments.model, prompt=prompt, settings=settings, tags=tags))
    return made


def against_as_long(runs: Sequence[StoredRun]) -> list[dict[str, Any]]:
    """Restarts minus the single run that costs as much, over pairs of task and seed."""
    rows = []
    for r in COUNTS:
        alone, several = f"1, at the cost of {r} restarts", f"{r} restarts, equal steps"
        pair = [run for run in runs if run.spec.tags["row"] in (alone, several)]
        rows += compare(pair, by="row", baseline=alone)
    return rows


def scores_of(runs: Sequence[StoredRun]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Row of the table -> task -> seed -> test score: what any other pairing needs."""
    by_row: dict[str, dict[str, dict[str, float | None]]] = {}
    for run in runs:
        tasks = by_row.setdefault(str(run.spec.tags["row"]), {})
        tasks.setdefault(run.spec.declared.name, {})[str(run.spec.prompt.seeds.initialization)] = run.score
    return by_row


def predicted(runs: Sequence[StoredRun], steps: int) -> dict[str, float]:
    """By task, over single runs: Spearman's correlation of the loss where restarts are compared with the test score."""
    by_task = {}
    last = race(steps)
    for task in dict.fromkeys(run.spec.declared.name for run in runs):
        mine = [run for run in runs if run.spec.declared.name == task and run.spec.tags["row"] == f"1 x {steps} steps"]
        scored = [run for run in mine if run.score is not None]
        if len(scored) > 2:
            correlation: Any = stats.spearmanr([_mean_loss(run, last) for run in scored], [r.score for r in scored])
            by_task[task] = float(correlation.statistic)
    return by_task


def _mean_loss(run: StoredRun, last: int) -> float:
    pairs = zip(run.curve["step"], run.curve["loss"], strict=True)
    kept = [loss for step, loss in pairs if last - max(1, last // WINDOW) < (step or 0) <= last and loss is not None]
    return sum(kept) / len(kept)


def main() -> None:
    """Train what is missing, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lab-t5-small")
    parser.add_argument("--method", default="prompt-tuning")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--tasks", nargs="+", default=list(TASK_NAMES))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--first-seed", type=int, default=2000)
    parser.add_argument("--store", default="runs/restarts")
    parser.add_argument("--fleet-size", type=int, default=16, help="a run counts as many prompts as it has restarts")
    parser.add_argument("--results", type=Path, help="also write a JSON file")
    arguments = parser.parse_args()

    wanted = specs(arguments)
    # A store has one run of a name: arms that happen to be one run are told apart by their tags here.
    stored = run_all(wanted, arguments.store, fleet_size=arguments.fleet_size)
    runs = [dataclasses.replace(run, spec=spec) for run, spec in zip(stored, wanted, strict=True)]
    for run in runs:
        assert run.prompt_steps is None or run.is_dropped or run.prompt_steps == run.spec.tags["cost"], (
            run.spec.describe()
        )
    by_row, by_task = summary(runs, by=("row", "cost")), summary(runs, by=("row", "task"))
    differences = compare(runs, by="row", baseline=f"1 x {arguments.steps} steps")
    correlation = predicted(runs, arguments.steps)
    print(markdown(by_row), markdown(by_task), markdown(differences), json.dumps(correlation, indent=1), sep="\n")
    if arguments.results:
        what = {
            name: value for name, value in vars(arguments).items() if name not in ("results", "store", "fleet_size")
        }
        results = {"what": what, "rows": by_row, "rows by task": by_task, "against a single run": differences}
        results["against a run as long"] = against_as_long(runs)
        results["scores"] = scores_of(runs)
        results["spearman of training loss and test score"] = correlation
        write_plain(arguments.results, results)


if __name__ == "__main__":
    main()
