"""At which rate ten random vectors learn, on built-in models and on SmolLM2.

    python -m experiments.vector_rates --data-root DATA [--cells smollm2:lab/topic lab-gpt:lab/topic ...] [--seeds 3]

Prompt tuning from random numbers, by the settings and seeds of `experiments.deep_begin`: 32 rows a class, 100 steps
of 8, the best of four evaluations. No other page reports these tasks of the real model. What is finished is not
trained again.
"""

from collections.abc import Callable, Mapping
from statistics import mean
from typing import Any

from experiments.deep_begin.__main__ import FIRST_SEED, SETTINGS, table
from experiments.real_lm.cells import Arms, measure_cells, train_prompts
from softprompt.backbones import AbstractBackbone
from softprompt.settings import PromptSettings, Seeds
from softprompt.study import markdown
from softprompt.tasks import Task

TASKS = ("opinion", "topic", "gender", "weekend", "warm", "topic-relabelled")
MODELS = ("smollm2", "lab-gpt", "lab-bert", "lab-t5-small")
CELLS = ("smollm2:yelp-short", *(f"{model}:lab/{task}" for model in MODELS for task in TASKS))
ARM = "random vectors"
# The real model, of which each prompt takes minutes, leaves the largest out.
RATES: Mapping[str, tuple[float, ...]] = {"lab": (1.0, 0.3, 0.1, 0.03), "real": (0.3, 0.1, 0.03)}


def measure(
    model: str, task: Task, backbone: AbstractBackbone, seeds: int, found: Arms, keep: Callable[[], None]
) -> None:
    """Train what a cell lacks."""
    records = found.setdefault(ARM, [])
    rates = RATES["lab" if model.startswith("lab-") else "real"]
    made = {(record["share"], record["seed"]) for record in records}
    numbers = range(FIRST_SEED, FIRST_SEED + seeds)
    missing = [(rate, seed) for rate in rates for seed in numbers if (rate, seed) not in made]
    if missing:
        prompts = [PromptSettings(init="uniform", lr=rate, seeds=Seeds.all(seed)) for rate, seed in missing]
        records += train_prompts(task, backbone, prompts, SETTINGS, [rate for rate, _ in missing])
        keep()


def means(cells: Mapping[str, Arms]) -> list[dict[str, Any]]:
    """For each model and rate the mean test accuracy over the model's tasks, and that of each task's worst seed."""
    rows: list[dict[str, Any]] = []
    for model in dict.fromkeys(cell.partition(":")[0] for cell in cells):
        mine = [arms[ARM] for cell, arms in cells.items() if cell.partition(":")[0] == model]
        for rate in sorted({record["share"] for records in mine for record in records}, reverse=True):
            scores = [[record["test"] for record in records if record["share"] == rate] for records in mine]
            scores = [tests for tests in scores if tests]
            rows.append(
                {
                    "model": model,
                    "rate": f"{rate:g}",
                    "tasks": len(scores),
                    "mean": round(mean(mean(tests) for tests in scores), 3),
                    "mean of the worst seeds": round(mean(min(tests) for tests in scores), 3),
                }
            )
    return rows


if __name__ == "__main__":
    found = measure_cells("vector_rates", __doc__, CELLS, measure)
    print(markdown(table(found)), markdown(means(found)), sep="\n\n")
