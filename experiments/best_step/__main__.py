"""Which evaluation of a run to store: by the score, by the score and then the loss over labels, or by the loss alone.

    python -m experiments.best_step --data-root DATA [--cells lab-gpt:lab/opinion smollm2:glue/qqp ...]

Each prompt is scored after every quarter of its steps on 32 validation rows, by which the rules choose, and on test
rows, which tell what the choice was worth. The real model is asked tasks of the laboratory as a user would ask it,
with an instruction. No seed here is reported elsewhere, and no task of the real model. Finished cells are not
trained again.
"""

import argparse
import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import softprompt
from experiments.common.places import RESULTS
from experiments.common.results import write_plain
from experiments.real_lm.tasks import task_of
from softprompt.initial import Initial
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import markdown
from softprompt.tasks import Task
from softprompt.training import without_advice

LAB_TASKS = ("lab/opinion", "lab/same-color", "lab/weekend")
# What the real model is asked: instruction and template; its own instructions are words that only lab models know.
ASKED: Mapping[str, tuple[str, str]] = {
    "lab/opinion": ("Is the opinion in this text good or bad?", "Text: {passage}\nOpinion:"),
    "lab/topic": ("Is this text about food, film, music or travel?", "Text: {passage}\nTopic:"),
    "lab/gender": ("Is the person in this text female or male?", "Text: {passage}\nPerson:"),
    "lab/warm": ("Is there a warm color (red, orange or yellow) in this text?", "Text: {passage}\nyes or no:"),
    "lab/weekend": ("Is there a day of the weekend in this text?", "Text: {passage}\nyes or no:"),
    "lab/day": ("Which day of the week is named in this text?", "Text: {passage}\nDay:"),
}
REAL = "smollm2"
CELLS = (
    *(f"{model}:{task}" for model in ("lab-gpt", "lab-t5") for task in LAB_TASKS),
    *(f"{REAL}:{task}" for task in ("glue/qqp", "yelp-short", *ASKED)),
)
EVAL_ROWS = 32
SETTINGS = TrainSettings(steps=100, batch_size=8, eval_every=25, eval_rows=EVAL_ROWS, shots_per_class=32)
FIRST_SEED = 900
# Name of a prompt in the tables -> its settings.
ARMS: Mapping[str, Mapping[str, Any]] = {
    "prompt tuning, instruction": {"init": "instruction"},
    "EPT*, instruction": {"method": "ept-star", "units": "rms", "init": "instruction"},
    "prompt tuning, random": {"init": "uniform"},
    "scaled, random": {"method": "scaled"},
}
# The real model is asked about words alone: of numbers, the cheap lab models tell enough.
REAL_ARMS = ("prompt tuning, instruction",)
Evaluated = Mapping[str, Any]


def within_error(rows: Sequence[Evaluated], errors: float) -> Evaluated:
    """The best trained evaluation, where its score is higher than that of the words, or near it with a smaller loss.

    Near is at most so many standard errors below: sqrt(s (1 - s) / n) of a score s of n rows. Else the words stay.
    """
    trained = max((row for row in rows if row["step"]), key=lambda row: (row["score"], -row["label_loss"]))
    for words in (row for row in rows if not row["step"]):
        error = math.sqrt(words["score"] * (1 - words["score"]) / EVAL_ROWS)
        is_near = trained["score"] >= words["score"] - errors * error
        if trained["score"] <= words["score"] and not (is_near and trained["label_loss"] < words["label_loss"]):
            return words
    return trained


# Name of a rule -> the evaluation that it stores.
RULES: Mapping[str, Callable[[Sequence[Evaluated]], Evaluated]] = {
    "score": lambda rows: max(rows, key=lambda row: (row["score"], -row["step"])),
    "score, then label loss": lambda rows: max(rows, key=lambda row: (row["score"], -row["label_loss"])),
    "the same, words kept": lambda rows: max(
        rows, key=lambda row: (row["score"], row["step"] == 0, -row["label_loss"])
    ),
    "words left within an error": lambda rows: within_error(rows, 1.0),
    "words left within two": lambda rows: within_error(rows, 2.0),
    "best trained": lambda rows: max(rows, key=lambda row: (row["step"] > 0, row["score"], -row["label_loss"])),
    "label loss": lambda rows: min(rows, key=lambda row: row["label_loss"]),
    "last step": lambda rows: max(rows, key=lambda row: row["step"]),
}


@dataclass
class Judge:
    """A callback that scores every prompt on the test rows after each evaluation."""

    backbone: Any
    tested: dict[str, dict[int, float]] = field(default_factory=dict)
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def on_evaluation(self, evaluation: Any) -> None:
        """Score the prompts as they are now."""
        for name in evaluation.scores:
            report = softprompt.evaluate(evaluation.prompt(name), model=self.backbone, allow_files=True)
            self.tested.setdefault(name, {})[evaluation.step] = report.metrics["score"]
            self.history[name] = evaluation.history(name)


def trained(task: Task, backbone: Any, arm: str, seeds: int) -> dict[str, list[dict[str, Any]]]:
    """Train an arm; the evaluations of each seed, with their test scores."""
    judge, begun = Judge(backbone), Judge(backbone)
    prompts = [PromptSettings(**ARMS[arm], seeds=Seeds.all(FIRST_SEED + seed)) for seed in range(seeds)]

    def train(prompts: Sequence[PromptSettings], settings: TrainSettings, callback: Judge) -> None:
        with without_advice(), tempfile.TemporaryDirectory() as folder:
            softprompt.train(
                task, backbone, prompts=prompts, settings=settings, output=Path(folder) / "run", callbacks=[callback]
            )

    train(prompts, SETTINGS, judge)
    if prompts[0].initial.is_words:
        # A step of a rate near zero leaves the words as they are: their test score stands for step 0 of all seeds.
        still = dataclasses.replace(prompts[0], lr=1e-12)
        train([still], dataclasses.replace(SETTINGS, steps=1, eval_every=1), begun)
    (zero,) = [scores[1] for scores in begun.tested.values()] or [None]
    return {
        name: [{**row, "test": judge.tested[name].get(row["step"], zero)} for row in rows]
        for name, rows in judge.history.items()
    }


def tables(cells: Mapping[str, Mapping[str, Mapping[str, Sequence[Evaluated]]]]) -> dict[str, list[dict[str, Any]]]:
    """What each rule chooses: the mean and the lowest test score over seeds, by cell and arm, and over all of them."""
    rows = []
    for cell, arms in cells.items():
        for arm, prompts in arms.items():
            chosen = {rule: [choose(rows)["test"] for rows in prompts.values()] for rule, choose in RULES.items()}
            means = {rule: round(mean(scores), 4) for rule, scores in chosen.items()}
            rows.append({"model and task": cell, "prompt": arm, "seeds": len(prompts), **means})
    return {"by cell": rows, "overall": [_over(name, rows) for name in ("all", "lab", REAL)]}


def _over(model: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each rule over the cells of a model, or of all."""
    mine = [row for row in rows if model == "all" or row["model and task"].startswith(model)]
    means = {rule: round(mean(row[rule] for row in mine), 4) if mine else None for rule in RULES}
    return {"models": model, "cells": len(mine), **means}


def asked(cell: str, data_root: Path | None, work: Path) -> Task:
    """The task of a cell, as its model is asked it."""
    model, _, name = cell.partition(":")
    task = task_of(cell, data_root, work)
    if model != REAL or name not in ASKED:
        return task
    instruction, template = ASKED[name]
    return dataclasses.replace(task, instruction=instruction, template=template, cue="", style="instruct")


def main() -> None:
    """Train the cells that are missing, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=list(CELLS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/best-step"))
    parser.add_argument("--results", type=Path, default=RESULTS / "best_step.json")
    arguments = parser.parse_args()
    cells = json.loads(arguments.results.read_text())["cells"] if arguments.results.exists() else {}
    for cell in arguments.cells:
        model, _, _ = cell.partition(":")
        arms = [arm for arm in arguments.arms if model != REAL or arm in REAL_ARMS]
        missing = [arm for arm in arms if arm not in cells.get(cell, {})]
        if not missing:
            continue
        task, backbone = asked(cell, arguments.data_root, arguments.work), softprompt.load_backbone(model)
        for arm in missing:
            if Initial(ARMS[arm].get("init", "uniform")).is_words and not task.instruction:
                continue
            cells.setdefault(cell, {})[arm] = trained(task, backbone, arm, arguments.seeds)
            write_plain(arguments.results, {"cells": cells, **tables(cells)})
    write_plain(arguments.results, {"cells": cells, **tables(cells)})
    print(*map(markdown, tables(cells).values()), sep="\n\n")


if __name__ == "__main__":
    main()
