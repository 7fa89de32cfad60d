"""Time of a decoder's first pass with a compiled prompt, an attached one, and PEFT's, at n = 1, 10 and 100 vectors.

    python benchmarks/compiled.py [--model smollm2] [--rows 1] [--tokens 32] [--repeats 7]

The model is frozen, the vectors are random, the texts are random tokens without padding. Each figure is the median of
the repeats, which take turns. The three must give the same logits at the end of a text. Writes results/compiled.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PromptTuningConfig, get_peft_model
from softprompt.backbones import AbstractBackbone, load_backbone
from softprompt.export import compile_prompt
from softprompt.interop.attach import attach
from softprompt.prompts.prompt import Provenance, SoftPrompt

RESULT = Path(__file__).parent / "results" / "compiled.json"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(arguments.model, engine="reference")
    rows = []
    for length in (1, 10, 100):
        rows.append(measured(backbone, length, arguments))
        print(json.dumps(rows[-1]), flush=True)
    settings = {"model": arguments.model, "rows": arguments.rows, "tokens": arguments.tokens, "threads": 1}
    RESULT.write_text(json.dumps({**settings, "repeats": arguments.repeats, "prompts": rows}, indent=1) + "\n")


@torch.no_grad()
def measured(backbone: AbstractBackbone, length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Median times in milliseconds and the largest difference of logits, for a prompt of `length` vectors."""
    draw = torch.Generator().manual_seed(length)
    words = backbone.word_vectors
    prompt = SoftPrompt(
        words[torch.randint(len(words), (length,), generator=draw)].clone(),
        Provenance("imported", backbone.identity(), backbone.answers),
    )
    # Ids of ordinary words, whatever the vocabulary's special tokens are.
    ids = torch.randint(100, len(words) - 100, (arguments.rows, arguments.tokens), generator=draw)
    mask = torch.ones_like(ids)
    passes = ways(backbone, prompt, ids, mask)
    logits = {name: run().logits[:, -1] for name, run in passes.items()}
    apart = max(float((logits[name] - logits["attached"]).abs().max()) for name in ("compiled", "peft"))
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(arguments.repeats):
        for name, run in passes.items():
            start = time.process_time()
            run()
            times[name].append(1000 * (time.process_time() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {f"{name} / compiled": round(medians[name] / medians["compiled"], 2) for name in ("attached", "peft")}
    ratios |= {"compiled / bare": round(medians["compiled"] / medians["bare"], 2)}
    return {"n": length, "ms": {k: round(v, 1) for k, v in medians.items()}, **ratios, "logits apart": apart}


def ways(
    backbone: AbstractBackbone, prompt: SoftPrompt, ids: torch.Tensor, mask: torch.Tensor
) -> dict[str, Callable[[], Any]]:
    """One pass over the texts: with a compiled prompt, an attached one and PEFT's; and without a prompt."""
    model, config = backbone.model, backbone.model.config
    compiled, attached = compile_prompt(prompt, model=backbone), attach(prompt, backbone.model)
    # A prompt without a task has nothing compiled but what every text begins with, as a beginning of sequence.
    assert compiled.length == prompt.length, compiled.opening
    whole = torch.cat([mask.new_ones(len(mask), prompt.length), mask], 1)
    behind = (whole.cumsum(1) - 1)[:, prompt.length :]
    width = prompt.vectors.shape[1]
    stock = PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=prompt.length, token_dim=width, num_transformer_submodules=1,
        num_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
    )  # fmt: skip
    peft: Any = get_peft_model(model, stock).eval()
    peft.prompt_encoder.default.embedding.weight.data = prompt.vectors
    return {
        "compiled": lambda: model(**compiled.inputs(ids, mask, config), position_ids=behind),
        "attached": lambda: attached(input_ids=ids, attention_mask=mask),
        "peft": lambda: peft(input_ids=ids, attention_mask=mask),
        "bare": lambda: model(input_ids=ids, attention_mask=mask, use_cache=True),
    }


if __name__ == "__main__":
    main()
