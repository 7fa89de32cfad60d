"""What a regulariser costs: time and peak memory of its step over those of the clean step, in turn, in one process.

    python benchmarks/regularizers.py

EPT* on a T5 of t5-small's shape with random weights, batch 16, 92 random tokens, answers of 3, by packed passes and by
transformers'; one thread. Prints the median over rounds of CPU time / that of the engine's own clean step of the round,
with the smallest and largest, and the peak of live memory above the weights over that of the clean step; writes
results/regularizers.json.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.prompts.units import WordScale
from softprompt.regularizers import Vocabulary, regularizers
from softprompt.settings import PromptSettings
from softprompt.training._step import backward
from softprompt.training.objectives import Plain, Regularized, RegularizerContext, acting

from against_peft.measure import peak_bytes
from dropout import batch_of, t5_small_shape

ROUNDS = 9
ENGINES = ("packed", "reference")
RESULT = Path(__file__).parent / "results" / "regularizers.json"
# Regulariser -> (name, bound on time, bound on memory); None where there is none.
ASKED: dict[str, tuple[str, float | None, float | None]] = {
    "rn-emb:divergence=kl": ("noise, clean side stopped", 1.8, 1.3),
    "adv-emb:divergence=kl": ("one ascent step, clean side stopped", 2.0, 1.3),
    "adv-emb:divergence=kl,steps=3": ("three ascent steps, clean side stopped", 4.2, 1.3),
    "adv-emb:divergence=kl,reuse=false": ("one step of plain ascent, clean side stopped", None, None),
    "rn-emb:divergence=symmetric-kl": ("noise, symmetric", 2.1, 2.1),
    "adv-emb:divergence=symmetric-kl": ("one ascent step, symmetric", 2.6, 2.1),
    "rn-emb:divergence=ce": ("noise, cross entropy", None, None),
    "freelb:steps=2": ("FreeLB, two steps", None, None),
}


def steps(engine: str) -> dict[str, Callable[[], None]]:
    """One training step for each regulariser, and the clean one under ""."""
    backbone = t5_small_shape(engine)
    table = backbone.word_vectors
    words = WordScale.of(table)
    around = RegularizerContext(
        backbone=backbone,
        vocabulary=Vocabulary(backbone.tokenizer, len(table)),
        allowed=None,
        words=words,
        embeddings=table,
    )
    prompt = TrainablePrompt.build(PromptSettings(method="ept-star"), uniform(), table, None, words)
    batch = batch_of(backbone)

    def step(text: str) -> Callable[[], None]:
        terms = acting([regularizers(text)], [0], 1, 1, 0)

        def run() -> None:
            prompt.zero_grad(set_to_none=True)
            backward(backbone, [prompt], batch, [0], Regularized(Plain(), terms, around))

        return run

    return {text: step(text) for text in ("", *ASKED)}


def seconds(run: Callable[[], None]) -> float:
    """CPU time of one step."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(engine: str) -> list[dict[str, Any]]:
    """One row a regulariser, all of them in turn with the clean step."""
    measured = steps(engine)
    for run in measured.values():
        run()  # warms up
    rounds = [{text: seconds(run) for text, run in measured.items()} for _ in range(ROUNDS)]
    memory = {text: peak_bytes(run, torch.device("cpu")) for text, run in measured.items()}
    rows = []
    for text, (name, time_bound, memory_bound) in ASKED.items():
        quotients = sorted(one[text] / one[""] for one in rounds)
        row = {"engine": engine, "regularizer": text, "name": name, "time": statistics.median(quotients)}
        row |= {"least": quotients[0], "most": quotients[-1], "memory": memory[text] / memory[""]}
        rows.append(row | {"time_bound": time_bound, "memory_bound": memory_bound})
    return rows


def told(row: Mapping[str, Any]) -> str:
    """A row as one line."""
    bounds = "" if row["time_bound"] is None else f"   asked: {row['time_bound']} and {row['memory_bound']}"
    spread = f"{row['time']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
    return f"{row['engine']:9} {row['name']:45} time {spread}, memory {row['memory']:.2f}{bounds}"


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows = [row for engine in ENGINES for row in measure(engine)]
    print("\n".join(map(told, rows)))
    values = {"model": "t5-small shape", "threads": 1, "batch_size": 16, "tokens": 92, "rounds": ROUNDS, "rows": rows}
    RESULT.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
