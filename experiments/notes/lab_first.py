"""A first comparison of methods on a built-in T5: five tasks, five seeds, each method at its own learning rate.

    python -m experiments.notes.lab_first [--model lab-t5-small] [--store runs/lab-first] [--workers 2]

Learning rates are chosen by validation accuracy on three of the tasks with a seed that is not reported. 250 steps of 16
rows, linear decay, the last step (no checkpoint selection), accuracy on 500 test rows. Papers' methods in raw numbers,
at the shipped scale of the embeddings (s = 32, as T5's) and at s = 1; ours in units of the embeddings' RMS, where s
changes nothing. Runs are kept in a store: it may be stopped and started again.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence

from softprompt.study import RunSpec, StoredRun, compare, grid, markdown, run_all, summary
from softprompt.tasks import TASKS, Task, with_difficulty

from ..common.places import RESULTS
from ..common.results import write_plain

# One task a family; the first three choose the learning rates.
# A skill alone is learned by every method from 4,000 rows: from 32, it is not.
FEW = "lab/opinion from 32 rows"
TASK_NAMES = (FEW, "lab/entailment", "lab/purchase", "lab/weekend", "lab/topic-relabelled")
CHOSEN_ON, CHOSEN_SEED, SEEDS = TASK_NAMES[:3], 100, (1, 2, 3, 4, 5)
STEPS = 250
# The shipped table is 32 times what was trained: this is s = 1.
ONE = 1 / 32

# Row -> method, units, embedding scale, learning rates to choose from.
ROWS: dict[str, tuple[str, str, float, tuple[float, ...]]] = {
    "prompt-tuning": ("prompt-tuning", "raw", 1.0, (0.03, 0.1, 0.3, 1.0)),
    "prompt-tuning, rms units": ("prompt-tuning", "rms", 1.0, (0.03, 0.1, 0.3, 1.0)),
    "p-tuning": ("p-tuning", "raw", 1.0, (0.01, 0.03, 0.1)),
    "residual": ("residual", "raw", 1.0, (0.03, 0.1, 0.3)),
    "ept": ("ept", "raw", 1.0, (0.03, 0.1, 0.3)),
    "ept-star": ("ept-star", "raw", 1.0, (0.1, 0.3, 1.0)),
    "one plain vector x 10, raw": ("scaled", "raw", 1.0, (0.3, 1.0, 3.0)),
    "scaled": ("scaled", "rms", 1.0, (0.3, 1.0, 3.0)),
    "polar": ("polar", "rms", 1.0, (0.03, 0.1, 0.3)),
    "prompt-tuning, s = 1": ("prompt-tuning", "raw", ONE, (0.1, 0.3, 1.0)),
    "residual, s = 1": ("residual", "raw", ONE, (0.03, 0.1, 0.3)),
    "ept-star, s = 1": ("ept-star", "raw", ONE, (0.03, 0.1, 0.3)),
}


def task(name: str) -> Task:
    """A lab task with fewer rows to score than it declares."""
    if name == FEW:
        few = with_difficulty(TASKS["lab/opinion"], train=32, validation=300, test=500)
        return dataclasses.replace(few, name=FEW)
    return with_difficulty(TASKS[name], validation=300, test=500)


def specs(row: str, rates: Sequence[float], tasks: Sequence[str], seeds: Sequence[int], model: str) -> list[RunSpec]:
    """The runs of one row of the table."""
    method, units, scale, _ = ROWS[row]
    made = grid(
        task=[task(name) for name in tasks],
        model=model,
        method=method,
        units=units,
        lr=list(rates),
        seed=list(seeds),
        steps=STEPS,
        eval_every=STEPS,
        backbone={} if scale == 1 else {"embedding_scale": scale},
    )
    return [dataclasses.replace(spec, tags={"row": row}) for spec in made]


def mean_validation(runs: Sequence[StoredRun]) -> float:
    """Mean validation score; a dropped run counts as 0."""
    return statistics.mean(run.validation_score or 0.0 for run in runs)


def write(name: str, values: object) -> None:
    """A file among the committed results."""
    write_plain(RESULTS / name, values)


def main() -> None:
    """Choose the rates, train what is reported, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lab-t5-small", choices=("lab-t5", "lab-t5-small"))
    parser.add_argument("--store", default="runs/lab-first")
    parser.add_argument("--rates-only", action="store_true", help="stop when the learning rates are chosen")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    arguments = parser.parse_args()

    tried = [s for row in arguments.rows for s in specs(row, ROWS[row][3], CHOSEN_ON, [CHOSEN_SEED], arguments.model)]
    trials = run_all(tried, arguments.store, workers=arguments.workers)
    validation = {
        row: {rate: mean_validation([r for r in trials if r.spec.tags["row"] == row and r.spec.prompt.lr == rate])
              for rate in ROWS[row][3]}
        for row in arguments.rows
    }  # fmt: skip
    chosen = {row: max(scores, key=lambda rate: scores[rate]) for row, scores in validation.items()}
    by_task = {
        row: {rate: {r.spec.declared.name: r.validation_score for r in trials
                     if r.spec.tags["row"] == row and r.spec.prompt.lr == rate} for rate in ROWS[row][3]}
        for row in arguments.rows
    }  # fmt: skip
    rates = {"tasks": CHOSEN_ON, "seed": CHOSEN_SEED, "validation accuracy by rate": validation, "chosen": chosen}
    print(json.dumps(rates, indent=1))
    write(
        f"lab_rates_{arguments.model}.json",
        {"what": f"{arguments.model}, {STEPS} steps, one seed", **rates, "by task": by_task},
    )
    if arguments.rates_only:
        return

    reported = [s for row in arguments.rows for s in specs(row, [chosen[row]], TASK_NAMES, SEEDS, arguments.model)]
    runs = run_all(reported, arguments.store, workers=arguments.workers)
    by_row = summary(runs, by=("row",))
    of_tasks = summary(runs, by=("row", "task"))
    print(markdown(by_row))
    differences = compare(runs, by="row", baseline="prompt-tuning") if "prompt-tuning" in arguments.rows else []
    print(markdown(differences))
    results = {
        "what": f"{arguments.model}, {STEPS} steps of 16 rows, last step, 500 test rows, seeds 1-5, five tasks",
        "tasks": TASK_NAMES,
        "rates": rates,
        "rows": by_row,
        "rows by task": of_tasks,
        "against prompt-tuning": differences,
    }
    write(f"lab_first_{arguments.model}.json", results)


if __name__ == "__main__":
    main()
