"""What the layers of a deep prompt begin as, and at which rate they learn.

    python -m experiments.deep_begin --data-root DATA [--cells lab-gpt:lab/opinion smollm2:yelp-short ...]

Random states, the states of the ordinary prompt, or those of the instruction, each at shares of the method's rate for
ordinary prompts: 32 rows a class, seeds and a task of the real model that no other page reports. Finished cells are
not trained again. An encoder (lab-t5) has random states only.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from statistics import mean
from typing import Any
from unittest import mock

from experiments.real_lm.cells import Arms, Record, measure_cells, train_prompts
from softprompt.backbones import AbstractBackbone
from softprompt.prompts.methods import Method
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import markdown
from softprompt.tasks import Task
from softprompt.training import _built

LAB = ("lab/opinion", "lab/same-color", "lab/weekend")
CELLS = (*(f"{model}:{task}" for model in ("lab-t5", "lab-gpt") for task in LAB), "smollm2:yelp-short")
SETTINGS = TrainSettings(steps=100, batch_size=8, eval_every=25, eval_rows=32, shots_per_class=32, loss="labels")
FIRST_SEED = 900
RANDOM, OWN, INSTRUCTION = "random states", "states of the ordinary prompt", "states of the instruction"
# Name in the tables -> the prompt.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "prompt tuning": {"init": "uniform"},
    "residual": {"method": "residual", "units": "rms"},
    "EPT*": {"method": "ept-star", "units": "rms"},
}
# The real model, of which each prompt takes minutes, leaves the whole rate out.
SHARES = {"lab": (1.0, 1 / 3, 1 / 10, 1 / 30, 1 / 100), "real": (1 / 3, 1 / 10, 1 / 30, 1 / 100)}


@contextmanager
def random_layers() -> Iterator[None]:
    """Within, no deep prompt begins as the ordinary one."""
    with mock.patch.object(_built._Prompts, "_states_of", return_value=None):
        yield


def arms(model: str, task: Task) -> list[tuple[str, str]]:
    """Method and beginning of the layers, for one model; the real one has prompt tuning alone."""
    if model == "lab-t5":
        return [(method, RANDOM) for method in METHODS]
    begun = (RANDOM, OWN, INSTRUCTION) if task.instruction else (RANDOM, OWN)
    return [
        (method, beginning) for method in (METHODS if model == "lab-gpt" else ("prompt tuning",)) for beginning in begun
    ]


def trained(
    task: Task, backbone: Any, method: str, beginning: str, seeds: int, shares: Sequence[float]
) -> list[Record]:
    """Train one arm at each share of its rate with each seed, side by side; one record each."""
    settings = PromptSettings(**METHODS[method])
    rate = Method.of(settings).lr_rms
    if beginning == INSTRUCTION:
        settings = dataclasses.replace(settings, init="instruction")
    prompts = [
        dataclasses.replace(settings, deep=True, lr=share * rate, seeds=Seeds.all(FIRST_SEED + seed))
        for share in shares
        for seed in range(seeds)
    ]
    rounded = [round(share, 4) for share in shares for _ in range(seeds)]
    with random_layers() if beginning == RANDOM else nullcontext():
        return train_prompts(task, backbone, prompts, SETTINGS, rounded)


def table(cells: Mapping[str, Mapping[str, Sequence[Record]]]) -> list[dict[str, Any]]:
    """The mean test accuracy over seeds by cell, arm and share of the rate."""
    every = (record for by_arm in cells.values() for records in by_arm.values() for record in records)
    rows, shares = [], sorted({record["share"] for record in every}, reverse=True)
    for cell, by_arm in cells.items():
        for arm, records in by_arm.items():
            scores = {share: [record["test"] for record in records if record["share"] == share] for share in shares}
            means = {f"{share:g}": round(mean(tests), 3) if tests else None for share, tests in scores.items()}
            seeds = len({record["seed"] for record in records})
            rows.append({"model and task": cell, "prompt": arm, "seeds": seeds, **means})
    return rows


def measure(
    model: str, task: Task, backbone: AbstractBackbone, seeds: int, found: Arms, keep: Callable[[], None]
) -> None:
    """Train what a cell lacks."""
    for method, beginning in arms(model, task):
        arm = f"{method}, {beginning}"
        if arm not in found:
            shares = SHARES["lab" if model.startswith("lab-") else "real"]
            found[arm] = trained(task, backbone, method, beginning, seeds, shares)
            keep()


if __name__ == "__main__":
    print(markdown(table(measure_cells("deep_begin", __doc__, CELLS, measure))))
