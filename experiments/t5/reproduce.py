"""What table 1 of Explosive Prompt Tuning would cost on a GPU: an estimate from counted operations, nothing was run.

    python -m experiments.t5.reproduce lengths --data-root DATA --tokenizer FOLDER    [a T5 tokenizer; minutes]
    python -m experiments.t5.reproduce table [--tflops 20] [--floor-ms 40]

`lengths` counts the tokens of up to 2,000 training rows of each task, as training reads them, into
results/reproduce_t5.json, which is all that `table` reads. Operations of a training step: forward, and backward to the
prompt alone, which is as much again, for the weights are frozen:

    2 x [2 P_enc (t + n) + 4 k d (t + n)^2 + 2 P_dec l + 2 d v l]    a row

with P weights of encoder and decoder, k encoder layers, t text tokens, n = 10 prompt positions, l = 3 label positions,
d width, v = 32,128 words. Evaluations every 1,000 steps on the validation rows, one decoder pass a label, forward only.
A step takes at least --floor-ms, for small models wait for their kernels to be launched. Both numbers of the machine
are assumptions until benchmarks/results/training.json has a GPU's.
"""

import argparse
import json
from typing import Any

from ..common.places import RESULTS
from ..common.results import write_plain

RESULT = RESULTS / "reproduce_t5.json"
ROWS = 2000
STEPS, BATCH, EVERY, PROMPT, LABEL, VOCABULARY = 30_000, 16, 1000, 10, 3, 32_128
SEEDS = 3
GLUE = ("cola", "mrpc", "rte", "stsb", "mnli", "qnli", "qqp", "sst2")
SUPERGLUE = ("boolq", "cb", "wic", "wsc.fixed", "multirc")
TASKS = (*(f"glue/{name}" for name in GLUE), *(f"super_glue/{name}" for name in SUPERGLUE))
METHODS = ("prompt-tuning", "p-tuning", "residual", "ept", "ept-star")
# Of more than 100,000 training rows 10,000 are held out (EPT, appendix B.1); a data root may hold fewer than the hub.
HELD_OUT = dict.fromkeys(("glue/mnli", "glue/qnli", "glue/qqp"), 10_000)
# On SuperGLUE the paper searches, elsewhere it uses 0.3.
RATES = {"glue": 1, "super_glue": 5}
# Width, layers of the encoder and as many of the decoder, feed-forward width.
SIZES = {"t5-small": (512, 6, 2048), "t5-base": (768, 12, 3072), "t5-large": (1024, 24, 4096)}


def lengths(data_root: str, tokenizer: str) -> None:
    """Tokens of each task's rows, and how many rows are evaluated."""
    from softprompt.data import TextFormat, load_rows, split_rows, tokenize
    from softprompt.tasks import TASKS as DECLARED
    from softprompt.tasks import styled
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    reading = TextFormat(tokenizer=words, answers="tokens", encode_answers=lambda answers: words(answers).input_ids)
    by_task: dict[str, Any] = {}
    for name in TASKS:
        task = styled(DECLARED[name], "numeric")
        splits = split_rows(task, load_rows(task, data_root))
        rows = splits.train.select(range(min(ROWS, len(splits.train))))
        read = tokenize(rows, task, reading)
        by_task[name] = {
            "tokens": round(read.lengths.float().mean().item(), 1),
            "of rows": len(rows),
            "validation rows": len(splits.validation),
            "labels": max(1, len(task.labels)),
        }
        print(name, by_task[name], flush=True)
    write_plain(RESULT, {"lengths": by_task})


def step(size: str, tokens: float) -> float:
    """Operations of one training row."""
    return 2 * (encoder(size, tokens) + decoder(size))


def encoder(size: str, tokens: float) -> float:
    """Operations of one row's forward pass through the encoder, prompt included."""
    d, layers, wide = SIZES[size]
    weights = layers * (4 * d * d + 2 * d * wide)
    return 2 * weights * (tokens + PROMPT) + 4 * layers * d * (tokens + PROMPT) ** 2


def decoder(size: str) -> float:
    """Operations of one row's forward pass through the decoder."""
    d, layers, wide = SIZES[size]
    return 2 * layers * (8 * d * d + 2 * d * wide) * LABEL + 2 * d * VOCABULARY * LABEL


def hours(size: str, rows: dict[str, Any], tflops: float, floor_ms: float) -> float:
    """Hours of one run of one task."""
    training = step(size, rows["tokens"]) * BATCH / (tflops * 1e12)
    answers = encoder(size, rows["tokens"]) + rows["labels"] * decoder(size)
    evaluation = answers * rows["validation rows"] * (STEPS // EVERY) / (tflops * 1e12)
    return (STEPS * max(training, floor_ms / 1000) + evaluation) / 3600


def table(tflops: float, floor_ms: float) -> str:
    """GPU-hours by size: one run of each task, and the whole of table 1's prompt methods."""
    by_task = json.loads(RESULT.read_text())["lengths"]
    lines = ["| model | one run: shortest task | longest task | 13 tasks x 5 methods x 3 seeds, SuperGLUE at 5 rates |"]
    lines.append("|---|---:|---:|---:|")
    for size in SIZES:
        whole_tasks = {
            n: {**rows, "validation rows": HELD_OUT.get(n, rows["validation rows"])} for n, rows in by_task.items()
        }
        each = {name: hours(size, rows, tflops, floor_ms) for name, rows in whole_tasks.items()}
        whole = sum(value * RATES[name.partition("/")[0]] for name, value in each.items()) * len(METHODS) * SEEDS
        low, high = min(each, key=lambda n: each[n]), max(each, key=lambda n: each[n])
        lines.append(f"| {size} | {each[low]:.2f} ({low}) | {each[high]:.2f} ({high}) | {whole:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Count, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("lengths", "table"))
    parser.add_argument("--data-root")
    parser.add_argument("--tokenizer")
    parser.add_argument("--tflops", type=float, default=20.0, help="sustained, of the GPU")
    parser.add_argument("--floor-ms", type=float, default=40.0, help="least time of a step")
    arguments = parser.parse_args()
    if arguments.part == "lengths":
        lengths(arguments.data_root, arguments.tokenizer)
    else:
        print(table(arguments.tflops, arguments.floor_ms))


if __name__ == "__main__":
    main()
