"""How many rows should share a pass: the same rows of a fleet in one pass and in several, in turn, in one process.

    python benchmarks/rows.py --data-root DATA [--case NAME ...]

Each case is the rows of an optimiser step of a fleet of EPT* prompts. They go through in one pass as they were drawn,
and split into passes of at most so many rows, the longest rows first; gradients are the same. Prints CPU time over that
of one pass, the median over rounds with the smallest and largest, and how many of the tokens that went through were
padding; adds the case to results/rows.json. One thread. Passes are those of transformers where a case is not called
packed, whose rows are not padded (its padding is that of the rectangle, which packed rows never fill).

Lengths: of the t5-small shape lognormal, mean 92, sigma 0.6, clipped to 8 ... 256; of MiniLM those of SST-2's training
rows; of lab-t5-small those of a lab task. "bucketed" rows are drawn as training draws them, each prompt's batch from
rows of similar length; "plain" ones in random order (bucket=1).
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from softprompt.backbones import AbstractBackbone, load_backbone
from softprompt.data import Examples, Ragged, epoch_batches, load_rows, split_rows
from softprompt.inference.asked import default_style
from softprompt.inference.rows import examples_for
from softprompt.memory import MemoryBudget
from softprompt.prompts.batch import TextBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.settings import PromptSettings, Seeds
from softprompt.tasks import styled, task
from softprompt.training._step import backward

from dropout import t5_small_shape

RESULT = Path(__file__).parent / "results" / "rows.json"
LENGTH = 10


@dataclass(frozen=True)
class Case:
    """Rows of a step: so many prompts of so many rows, and the splits to be compared with one pass."""

    model: str
    prompts: int
    batch_size: int
    bucket: int
    most: tuple[int, ...]
    rounds: int
    engine: str = "reference"


CASES = {
    "t5-small 8 x 16 bucketed": Case("t5-small", 8, 16, 8, (64, 32, 16, 8), 3),
    "t5-small 1 x 16 bucketed": Case("t5-small", 1, 16, 8, (8, 4), 7),
    "t5-small 1 x 16 plain": Case("t5-small", 1, 16, 1, (8, 4), 7),
    "lab-t5-small 8 x 8 bucketed": Case("lab-t5-small", 8, 8, 8, (32, 16, 8), 15),
    "lab-t5-small 32 x 16 bucketed": Case("lab-t5-small", 32, 16, 8, (256, 128, 64, 32, 16), 7),
    "MiniLM 1 x 16 bucketed": Case("MiniLM", 1, 16, 8, (8,), 15),
    "MiniLM 1 x 16 plain": Case("MiniLM", 1, 16, 1, (8,), 15),
    "MiniLM 8 x 16 bucketed": Case("MiniLM", 8, 16, 8, (64, 32, 16, 8), 7),
    "packed t5-small 4 x 16 plain": Case("t5-small", 4, 16, 1, (32, 16, 8), 5, "packed"),
    "packed t5-small 1 x 16 plain": Case("t5-small", 1, 16, 1, (8, 4), 7, "packed"),
    "packed lab-t5-small 32 x 16 bucketed": Case("lab-t5-small", 32, 16, 8, (256, 128, 64, 32, 16), 7, "packed"),
}


def t5_small_rows(engine: str) -> tuple[AbstractBackbone, Examples]:
    """Random weights, random tokens, realistic lengths, answers of three tokens."""
    generator = torch.Generator().manual_seed(0)
    sigma = 0.6
    mean = math.log(92) - sigma**2 / 2
    lengths = torch.empty(2048).log_normal_(mean, sigma, generator=generator).clamp(8, 256).long().tolist()
    rows = [torch.randint(1000, 20000, (n,), generator=generator).numpy() for n in lengths]
    return t5_small_shape(engine), Examples(Ragged.of(rows), Ragged.of([[5, 6, 1]] * len(rows)), [0] * len(rows))


def rows_of(model: str, engine: str, data_root: str | None) -> tuple[AbstractBackbone, Examples]:
    """A backbone and training rows for it."""
    if model == "t5-small":
        return t5_small_rows(engine)
    backbone = load_backbone("minilm" if model == "MiniLM" else model, engine=engine)
    declared = task("glue/sst2" if model == "MiniLM" else "lab/opinion")
    declared = styled(declared, default_style(declared, backbone.kind))
    rows = split_rows(declared, load_rows(declared, data_root)).train
    return backbone, examples_for(backbone, declared, rows.select(range(min(2048, len(rows)))), LENGTH)


def step_of(
    backbone: AbstractBackbone, examples: Examples, case: Case
) -> tuple[Callable[[int | None], float], TextBatch]:
    """A function from the most rows of a pass (None: one pass) to the CPU seconds of the step, and the rows."""
    table = backbone.word_vectors
    shape = (2, backbone.hidden_size) if backbone.answers == "linear-head" else None
    prompts = [
        TrainablePrompt.build(PromptSettings(method="ept-star", seeds=Seeds.all(k)), uniform(), table, shape)
        for k in range(case.prompts)
    ]
    every = range(len(examples))
    own = [
        epoch_batches(examples.lengths, every, case.batch_size, seed=k, epoch=0, bucket=case.bucket)[0]
        for k in range(case.prompts)
    ]
    owner = torch.arange(case.prompts).repeat_interleave(case.batch_size)
    batch = examples.batch([row for rows in own for row in rows], owner, backbone.pad_id)
    lengths = (batch.mask.sum(1) + LENGTH).tolist()

    def seconds(most: int | None) -> float:
        for prompt in prompts:
            prompt.zero_grad(set_to_none=True)
        start = time.process_time()
        backward(backbone, prompts, batch, [0] * len(prompts), parts=MemoryBudget(rows=most).parts(lengths))
        return time.process_time() - start

    return seconds, batch


def padding(batch: TextBatch, most: int | None) -> float:
    """The share of padding in what goes through the frozen model."""
    lengths = (batch.mask.sum(1) + LENGTH).tolist()
    parts = MemoryBudget(rows=most).parts(lengths)
    through = sum(len(part) * max(lengths[row] for row in part) for part in parts)
    return 1 - sum(lengths) / through


def measure(name: str, case: Case, data_root: str | None) -> dict:
    """The case's table; printed as it goes."""
    backbone, examples = rows_of(case.model, case.engine, data_root)
    seconds, batch = step_of(backbone, examples, case)
    seconds(case.most[-1])  # warms up
    rounds = [{most: seconds(most) for most in (None, *case.most)} for _ in range(case.rounds)]
    lengths = batch.mask.sum(1).float()
    print(f"{name}: mean {lengths.mean():.0f} tokens, longest {lengths.max():.0f}", flush=True)
    splits = []
    for most in case.most:
        quotients = sorted(one[most] / one[None] for one in rounds)
        row = {"most": most, "time": statistics.median(quotients), "least": quotients[0], "most_time": quotients[-1]}
        splits.append(row | {"padding": padding(batch, most)})
        print(f"    {most:4} rows a pass: time {row['time']:.2f} ({quotients[0]:.2f} to {quotients[-1]:.2f}), ", end="")
        print(f"padding {splits[-1]['padding']:.0%} instead of {padding(batch, None):.0%}", flush=True)
    return {
        "rows": len(batch.ids),
        "mean_tokens": float(lengths.mean()),
        "longest": int(lengths.max()),
        "hidden_size": backbone.hidden_size,
        "rounds": case.rounds,
        "seconds_one_pass": statistics.median(one[None] for one in rounds),
        "padding_one_pass": padding(batch, None),
        "splits": splits,
    }


def main() -> None:
    """Measure what is asked for, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder with SST-2's rows, for MiniLM")
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    done = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in arguments.case:
        done[name] = measure(name, CASES[name], arguments.data_root)
        RESULT.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
