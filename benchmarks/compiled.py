"""Time of a model's first pass with a compiled prompt, an attached one, and PEFT's, at n = 1, 10 and 100 vectors.

    python benchmarks/compiled.py [--model smollm2] [--rows 1] [--tokens 32] [--repeats 7]
    python benchmarks/compiled.py --model t5-small

The model is frozen, the texts are random tokens without padding. Each figure is the median of the repeats, which take
turns; ratios are medians of the ratios of a turn. Of a decoder the vectors are random words, and the three must give
the same logits at the end of a text; writes results/compiled.json. Of a T5 the prompt is one vector of norm 10,000,
repeated n times (EPT*'s shape), and the compiled one is its limit, whose error is given; "t5-small" is its shape with
random weights, "lab-t5" the built-in model. A pass is the encoder and the decoder's first token; writes
results/compiled_t5.json.
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
from softprompt.export import compile_prompt, limit_of
from softprompt.interop.attach import attach
from softprompt.prompts.prompt import Provenance, SoftPrompt

from dropout import t5_small_shape

RESULTS = Path(__file__).parent / "results"
NORM = 10_000


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    is_shape = arguments.model == "t5-small"
    backbone = load_backbone("lab-t5" if is_shape else arguments.model, engine="reference")
    if is_shape:
        backbone, tokenizer = t5_small_shape("reference"), backbone.tokenizer
        # It reads the few words that stand before and behind every text: none here.
        backbone.tokenizer = tokenizer
    rows = []
    for length in (1, 10, 100):
        rows.append(measured(backbone, length, arguments))
        print(json.dumps(rows[-1]), flush=True)
    settings = {"model": arguments.model, "rows": arguments.rows, "tokens": arguments.tokens, "threads": 1}
    result = RESULTS / ("compiled.json" if backbone.kind == "decoder" else "compiled_t5.json")
    result.write_text(json.dumps({**settings, "repeats": arguments.repeats, "prompts": rows}, indent=1) + "\n")


@torch.no_grad()
def measured(backbone: AbstractBackbone, length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Median times in milliseconds and the largest difference of logits, for a prompt of `length` vectors."""
    draw = torch.Generator().manual_seed(length)
    words = backbone.word_vectors
    # Ids of ordinary words, whatever the vocabulary's special tokens are.
    ids = torch.randint(100, len(words) - 100, (arguments.rows, arguments.tokens), generator=draw)
    prompt, mask = prompt_of(backbone, length, draw), torch.ones_like(ids)
    passes = (decoder_ways if backbone.kind == "decoder" else t5_ways)(backbone, prompt, ids, mask)
    logits = {name: run().logits[:, -1] for name, run in passes.items()}
    apart = {name: float((logits[name] - logits["attached"]).abs().max()) for name in ("compiled", "peft")}
    turns: list[dict[str, float]] = []
    for _ in range(arguments.repeats):
        turns.append({})
        for name, run in passes.items():
            start = time.process_time()
            run()
            turns[-1][name] = 1000 * (time.process_time() - start)
    medians = {name: round(statistics.median(turn[name] for turn in turns), 2) for name in passes}
    pairs = (("attached", "compiled"), ("peft", "compiled"), ("compiled", "bare"))
    ratios = {f"{a} / {b}": round(statistics.median(turn[a] / turn[b] for turn in turns), 3) for a, b in pairs}
    row = {"n": length, "ms": medians, **ratios, "logits apart": max(apart.values())}
    if backbone.kind == "decoder":
        return row
    chances = {name: logits[name].softmax(-1) for name in ("compiled", "attached")}
    error = float((chances["compiled"] - chances["attached"]).abs().sum(-1).max() / 2)
    return {**row, "logits apart": apart["peft"], "error of the limit": error}


def prompt_of(backbone: AbstractBackbone, length: int, draw: torch.Generator) -> SoftPrompt:
    """Random words for a decoder; for a T5 one vector of a large norm, repeated."""
    provenance = Provenance("imported", backbone.identity(), backbone.answers)
    if backbone.kind == "decoder":
        words = backbone.word_vectors
        return SoftPrompt(words[torch.randint(len(words), (length,), generator=draw)].clone(), provenance)
    vector = torch.randn(1, backbone.embedding_size, generator=draw)
    return SoftPrompt(vector / vector.norm() * NORM, provenance, repeats=length)


def decoder_ways(
    backbone: AbstractBackbone, prompt: SoftPrompt, ids: torch.Tensor, mask: torch.Tensor
) -> dict[str, Callable[[], Any]]:
    """One pass over the texts: with a compiled prompt, an attached one and PEFT's; and without a prompt."""
    model, config = backbone.model, backbone.model.config
    compiled, attached = compile_prompt(prompt, model=backbone), attach(prompt, backbone.model)
    # A prompt without a task has nothing compiled but what every text begins with, as a beginning of sequence.
    assert compiled.length == prompt.length, compiled.input_format.opening
    whole = torch.cat([mask.new_ones(len(mask), prompt.length), mask], 1)
    behind = (whole.cumsum(1) - 1)[:, prompt.length :]
    peft = in_peft(model, prompt, "CAUSAL_LM")
    return {
        "compiled": lambda: model(**compiled.inputs(ids, mask, config), position_ids=behind),
        "attached": lambda: attached(input_ids=ids, attention_mask=mask),
        "peft": lambda: peft(input_ids=ids, attention_mask=mask),
        "bare": lambda: model(input_ids=ids, attention_mask=mask, use_cache=True),
    }


def t5_ways(
    backbone: AbstractBackbone, prompt: SoftPrompt, ids: torch.Tensor, mask: torch.Tensor
) -> dict[str, Callable[[], Any]]:
    """The same for a T5, each with the decoder's first token."""
    model = backbone.model
    limit, attached = limit_of(prompt, model=backbone), attach(prompt, model)
    peft, start = in_peft(model, prompt, "SEQ_2_SEQ_LM"), torch.zeros(len(ids), 1, dtype=torch.long)
    return {
        "compiled": lambda: model(**limit.inputs(ids, mask, model), decoder_input_ids=start),
        "attached": lambda: attached(input_ids=ids, attention_mask=mask, decoder_input_ids=start),
        "peft": lambda: peft(input_ids=ids, attention_mask=mask, decoder_input_ids=start),
        "bare": lambda: model(input_ids=ids, attention_mask=mask, decoder_input_ids=start),
    }


def in_peft(model: Any, prompt: SoftPrompt, task_type: str) -> Any:
    """The model with PEFT's prompt before it."""
    config = model.config
    stock = PromptTuningConfig(
        task_type=task_type, num_virtual_tokens=prompt.length, token_dim=prompt.vectors.shape[1],
        num_transformer_submodules=1, num_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
    )  # fmt: skip
    peft: Any = get_peft_model(model, stock).eval()
    peft.prompt_encoder.default.embedding.weight.data = prompt.expanded()
    return peft


if __name__ == "__main__":
    main()
