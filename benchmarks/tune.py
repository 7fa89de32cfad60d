"""Whether `softprompt tune` beats the default settings: eight lab tasks on which nothing of the search was chosen.

    python benchmarks/tune.py [--minutes 30] [--repeats 5] [--threads 2] [--model lab-t5]
    python benchmarks/tune.py --trials 12 --steps 150 --model lab-t5-small --repeats 3 --threads 1 \
        --result benchmarks/results/tune_small.json
    python benchmarks/tune.py --sst2 DATA --minutes 60 --threads 1      # results/tune_sst2.json

A cell is one task and one repeat, which has rows and seeds of its own. Its search gets so many minutes; winner and
default are trained with five fresh seeds on the same rows. The bar: over the repeats the winner's mean is higher on at
least six tasks, and on none more than .01 lower. Each cell goes to benchmarks/results/tune.json as it ends, and is not
repeated; a cell that was killed goes on. Forty cells of 30 minutes take 20 hours. With --trials a search has so many
candidates of --steps in place of minutes, so that a machine with other work finds the same.

With --sst2 there is one search: SmolLM2 with 64 rows of SST-2, reported on all 872 validation rows. The bar: the winner
is not below the instruction by hand.
"""

import argparse
import csv
import gzip
import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULT = HERE / "results" / "tune.json"
SST2_RESULT = RESULT.with_name("tune_sst2.json")
LABELS, ROWS_OF_EACH = ("negative", "positive"), 32
TASKS = ("lab/topic", "lab/color", "lab/opinion-relabelled", "lab/side-relabelled", "lab/topic-relabelled", "lab/many",
         "lab/entailment", "lab/same-topic")  # fmt: skip
ROWS = {"train": 500, "validation": 200, "test": 1000}
WINS, LARGEST_LOSS = 6, 0.01


def budget(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a search may use: minutes, or trials of so many steps."""
    if arguments.trials is None:
        return {"minutes": arguments.minutes}
    return {"trials": arguments.trials, "steps": arguments.steps}


def cell(task: str, repeat: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One search, and what it found."""
    import softprompt

    tuned = softprompt.tune(
        softprompt.with_difficulty(softprompt.TASKS[task], seed=repeat, **ROWS),
        arguments.model,
        **budget(arguments),
        seed=repeat,
        output=arguments.runs
        / "-".join(f"{value}" for value in (arguments.model, *budget(arguments).values()))
        / f"{task.replace('/', '-')}-{repeat}",
        progress=True,
    )
    lead = None if tuned.lead is None else {"low": tuned.lead.low, "high": tuned.lead.high, "p": tuned.lead.p}
    return {
        "task": task,
        "repeat": repeat,
        "winner": tuned.score,
        "default": tuned.line("default").score,
        "lead": lead,
        "settings": dict(tuned.settings),
        "trials": dict(tuned.trials),
        "cost": dict(tuned.cost),
    }


def summary(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By task: mean scores over the repeats that are there, and the mean lead."""
    rows = []
    for task in dict.fromkeys(one["task"] for one in cells):
        of_task = [one for one in cells if one["task"] == task]
        winner, default = (statistics.fmean(one[name] for one in of_task) for name in ("winner", "default"))
        rows.append(
            {"task": task, "repeats": len(of_task), "default": default, "winner": winner, "lead": winner - default}
        )
    return rows


def is_met(rows: Sequence[dict[str, Any]], repeats: int) -> bool | None:
    """Whether the bar is met; None while cells are missing."""
    if len(rows) < len(TASKS) or any(row["repeats"] < repeats for row in rows):
        return None
    return sum(row["lead"] > 0 for row in rows) >= WINS and min(row["lead"] for row in rows) >= -LARGEST_LOSS


def sst2(arguments: argparse.Namespace) -> dict[str, Any]:
    """The search with 64 rows of SST-2 on SmolLM2, and what was scored on the rows of the report."""
    import softprompt

    files = sst2_files(arguments.sst2, arguments.runs / "sst2-rows")
    tuned = softprompt.tune(
        str(files["train"]),
        "smollm2",
        test_data=str(files["validation"]),
        text_column="sentence",
        label_column="label",
        template="Review: {sentence}\nSentiment:",
        instruction="Is the sentiment of this review positive or negative?",
        label_words=",".join(LABELS),
        minutes=arguments.minutes,
        output=arguments.runs / "sst2",
        progress=True,
    )
    report = tuned.to_json()
    return {name: report[name] for name in ("lines", "is_default", "lead", "rows", "settings", "trials", "cost")}


def sst2_files(data_root: Path, folder: Path) -> dict[str, Path]:
    """64 training rows, as many of each class, and all validation rows, as CSV."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "validation"):
        with gzip.open(data_root / "glue" / "sst2" / f"{split}.jsonl.gz", "rt") as lines:
            rows[split] = [json.loads(line) for line in lines]
    random.Random(0).shuffle(rows["train"])
    drawn = [row for label in (0, 1) for row in [row for row in rows["train"] if row["label"] == label][:ROWS_OF_EACH]]
    random.Random(1).shuffle(drawn)
    folder.mkdir(parents=True, exist_ok=True)
    for split, chosen in {**rows, "train": drawn}.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [["sentence", "label"], *([row["sentence"], LABELS[row["label"]]] for row in chosen)]
            )
    return {split: folder / f"{split}.csv" for split in rows}


def main() -> None:
    """Search for what is missing, cell by cell, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="lab-t5")
    parser.add_argument("--runs", type=Path, default=Path("runs/tune"))
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--sst2", type=Path, help="folder with the rows of glue/sst2: search on SmolLM2 instead")
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.sst2 is not None:
        SST2_RESULT.write_text(json.dumps(sst2(arguments), indent=1) + "\n")
        return
    about = {**budget(arguments), "threads": arguments.threads, "model": arguments.model, "rows": ROWS}
    values = json.loads(arguments.result.read_text()) if arguments.result.exists() else {"about": about, "cells": []}
    if values["about"] != about:
        raise SystemExit(f"{arguments.result} is of {values['about']}; give another --result")
    done = {(one["task"], one["repeat"]) for one in values["cells"]}
    for repeat in range(arguments.repeats):
        for task in TASKS:
            if (task, repeat) not in done:
                values["cells"].append(cell(task, repeat, arguments))
                values["tasks"] = summary(values["cells"])
                values["bar met"] = is_met(values["tasks"], arguments.repeats)
                arguments.result.write_text(json.dumps(values, indent=1) + "\n")
    for row in summary(values["cells"]):
        print(f"{row['task']:24} {row['default']:.3f} {row['winner']:.3f} {row['lead']:+.3f} ({row['repeats']})")
    print(f"bar met: {is_met(summary(values['cells']), arguments.repeats)}")


if __name__ == "__main__":
    main()
