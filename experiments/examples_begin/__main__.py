"""Four labelled rows as a beginning on lab-gpt, beside random vectors.

    python -m experiments.examples_begin [--cells lab-gpt:lab/opinion ...] [--seeds 3]

On SmolLM2 four rows are the best beginning (docs/results/real-lm.md). This asks whether they could be a default: by the
settings and seeds of `experiments.deep_begin`, on tasks whose rows fit. What is finished is not trained again.
"""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.deep_begin.__main__ import FIRST_SEED, SETTINGS, table
from experiments.real_lm.cells import Arms, Record, measure_cells, train_prompts
from softprompt.backbones import AbstractBackbone
from softprompt.settings import PromptSettings, Seeds
from softprompt.study import markdown
from softprompt.tasks import Task

TASKS = ("opinion", "topic", "gender", "weekend", "warm", "topic-relabelled")
CELLS = tuple(f"lab-gpt:lab/{task}" for task in TASKS)
# Name in the tables -> the beginning, and its rates: the default first.
ARMS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "random vectors": ("uniform", (0.3,)),
    "four examples": ("examples:4", (0.03, 0.01, 0.1)),
}


def trained(task: Task, backbone: Any, init: str, seeds: int, rate: float) -> list[Record]:
    """Train prompt tuning from one beginning at one rate with each seed; one record each."""
    prompts = [PromptSettings(init=init, lr=rate, seeds=Seeds.all(FIRST_SEED + seed)) for seed in range(seeds)]
    return train_prompts(task, backbone, prompts, SETTINGS, [rate] * seeds)


def measure(
    _model: str, task: Task, backbone: AbstractBackbone, seeds: int, found: Arms, keep: Callable[[], None]
) -> None:
    """Train what a cell lacks."""
    for arm, (init, rates) in ARMS.items():
        records = found.setdefault(arm, [])
        for rate in rates:
            if not any(record["share"] == rate for record in records):
                records += trained(task, backbone, init, seeds, rate)
                keep()


if __name__ == "__main__":
    print(markdown(table(measure_cells("examples_begin", __doc__, CELLS, measure))))
