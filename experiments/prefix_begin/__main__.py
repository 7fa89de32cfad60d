"""What the keys and values of prefix tuning begin as, and at which rate they learn.

    python -m experiments.prefix_begin --data-root DATA [--cells lab-gpt:lab/opinion smollm2:yelp-short ...]

Random numbers as in PEFT, the model's own keys and values of drawn words, or the same with a frozen first position
(`cartridge`), each at several rates, by the settings, cells and seeds of `experiments.deep_begin`. What is
finished is not trained again. Where the layers of an encoder-decoder share entries (lab-t5) a prefix is random.
"""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.deep_begin.__main__ import CELLS, FIRST_SEED, SETTINGS, table
from experiments.real_lm.cells import Arms, Record, measure_cells, train_prompts
from softprompt.backbones import AbstractBackbone
from softprompt.settings import PromptSettings, Seeds
from softprompt.study import markdown
from softprompt.tasks import Task

# Name in the tables -> the method.
ARMS: Mapping[str, Mapping[str, Any]] = {
    "prefix-tuning, random": {"method": "prefix-tuning", "options": {"begins": "random"}},
    "prefix-tuning, words": {"method": "prefix-tuning", "options": {"begins": "words"}},
    "cartridge": {"method": "cartridge"},
}
# The real model, of which each run takes minutes, leaves the ends out.
RATES = {"lab": (0.3, 0.1, 0.03, 0.01), "real": (0.1, 0.03)}


def trained(task: Task, backbone: Any, arm: str, seeds: int, rate: float) -> list[Record]:
    """Train one arm at one rate with each seed; one record each."""
    prompts = [PromptSettings(**ARMS[arm], lr=rate, seeds=Seeds.all(FIRST_SEED + seed)) for seed in range(seeds)]
    return train_prompts(task, backbone, prompts, SETTINGS, [rate] * seeds)


def measure(
    model: str, task: Task, backbone: AbstractBackbone, seeds: int, arms: Arms, keep: Callable[[], None]
) -> None:
    """Train what a cell lacks."""
    for arm in ARMS if backbone.kind == "decoder" else list(ARMS)[:1]:
        records = arms.setdefault(arm, [])
        for rate in RATES["lab" if model.startswith("lab-") else "real"]:
            if not any(record["share"] == rate for record in records):
                records += trained(task, backbone, arm, seeds, rate)
                keep()


if __name__ == "__main__":
    print(markdown(table(measure_cells("prefix_begin", __doc__, CELLS, measure))))
