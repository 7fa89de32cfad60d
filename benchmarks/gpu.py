"""Fleets on a GPU in bfloat16: our two engines and PEFT with a plain loop, in turns in one process.

    python benchmarks/gpu.py --out OUT/gpu.json                  # an NVIDIA GPU, less than three minutes
    python benchmarks/gpu.py --quick --out /tmp/gpu.json         # the same on a CPU with tiny models, seconds

First `shared` has to equal `reference` on the device, in float32 and in bfloat16; a model for which it does not is
reported and not timed. Then a step (forward pass, backward pass, AdamW) of K prompts of 20 tokens, 16 rows each, of 10
to 50 tokens, is timed between two synchronisations. PEFT trains one prompt at a time, so K prompts cost it K steps; its
rows are padded to the longest. Everything is written to one file as soon as it is known.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from softprompt.backbones import from_model
from softprompt.losses import task_losses
from softprompt.prompts.batch import PromptBatch, TextBatch

ROWS, PROMPT, TURNS, WARM = 16, 20, 7, 3
# The widths of SmolLM2-135M and of a Llama of about a billion parameters, with random weights.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                         num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True),
    "llama-1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                     num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True),
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, vocab_size=512, tie_word_embeddings=True),
}  # fmt: skip


def main() -> None:
    """Check and time every model; write what is known after each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=sorted(SHAPES))
    parser.add_argument("--prompts", nargs="+", type=int)
    parser.add_argument("--weights", help="folder of SmolLM2, in the place of random weights of its shape")
    parser.add_argument("--seconds", type=float, default=150, help="no cell is begun later than this")
    parser.add_argument("--quick", action="store_true", help="tiny, on whatever device there is")
    arguments = parser.parse_args()
    begun = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = arguments.models or (["tiny"] if arguments.quick else ["smollm2-135m", "llama-1b"])
    fleets = arguments.prompts or ([1, 2] if arguments.quick else [1, 16, 4, 64])
    result: dict[str, Any] = {"device": _name(device), "rows": ROWS, "prompt": PROMPT, "models": {}}
    result |= {package: version(package) for package in ("torch", "transformers", "peft")}
    for name in models:
        cells: dict[str, Any] = {}
        result["models"][name] = cells
        try:
            backbone = built(name, device, arguments.weights)
            cells["parameters"] = sum(x.numel() for x in backbone.model.parameters())
            # What the trial at loading chose; the sides of a turn switch it.
            cells["engine"] = backbone.engine
            cells["check"] = check(backbone)
            plain, backbone = in_bfloat16(backbone)
            cells["check_bfloat16"] = check(backbone)
            for count in fleets:
                if time.monotonic() - begun > arguments.seconds:
                    cells[f"K={count}"] = "not begun: out of time"
                    continue
                cells[f"K={count}"] = timed(backbone, plain, count)
                print(name, count, json.dumps(cells[f"K={count}"]), flush=True)
                _write(arguments.out, result)
        # A model that fails leaves what the others gave.
        except Exception as error:
            cells["failed"] = f"{type(error).__name__}: {error}"[:500]
            print(name, cells["failed"], flush=True)
        _write(arguments.out, result)
        backbone = plain = None
        if device.type == "cuda":
            torch.cuda.empty_cache()
    result["seconds"] = round(time.monotonic() - begun, 1)
    _write(arguments.out, result)
    print(json.dumps(result, indent=1))


def built(name: str, device: torch.device, weights: str | None) -> Any:
    """A backbone in float32 on the device: the folder's for SmolLM2 where one is given, else random."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if weights and name == "smollm2-135m":
        model: Any = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
        model = model.to(device)
        return from_model(model, AutoTokenizer.from_pretrained(weights), name=name, engine="auto")
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[name], max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    return from_model(model.eval(), _tokenizer(), name=name, engine="auto")


def _tokenizer() -> Any:
    """A tokenizer of a few words: rows are drawn as ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "a", "answer", ":", "good", "bad"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def in_bfloat16(backbone: Any) -> tuple[Any, Any]:
    """A plain model for PEFT, and the backbone that loading in bfloat16 makes: float32 between its products.

    Tables of rotary positions stay in float32, as they do where a checkpoint is loaded in bfloat16.
    """
    model, tokenizer, name = backbone.model, backbone.tokenizer, backbone.name
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return copy.deepcopy(model), from_model(model, tokenizer, name=name, engine="auto")


def drawn(backbone: Any, count: int, seed: int = 0) -> tuple[torch.Tensor, TextBatch]:
    """Prompts from word vectors, and rows of 10 to 50 tokens that begin and end as those of a template do."""
    draw = torch.Generator().manual_seed(seed)
    words = backbone.word_vectors
    prompts = words[torch.randint(len(words), (count, PROMPT), generator=draw).to(backbone.device)].float()
    b = count * ROWS
    lengths = torch.randint(10, 51, (b,), generator=draw)
    ids = torch.randint(3, len(words), (b, 50), generator=draw)
    ids[:, :2] = ids[0, :2]
    mask = torch.arange(50) < lengths[:, None]
    owner = torch.arange(count).repeat_interleave(ROWS)
    targets = torch.randint(3, len(words), (b, 1), generator=draw)
    return prompts, TextBatch(ids, mask, owner, targets).to(backbone.device)


def check(backbone: Any) -> dict[str, Any]:
    """How far loss and gradients of the two engines are apart, for three prompts of 16 rows."""
    prompts, batch = drawn(backbone, 3, seed=1)
    results = {}
    for engine in ("reference", "shared"):
        leaf = prompts.clone().requires_grad_()
        loss = _loss(backbone, engine, leaf, batch)
        loss.backward()
        assert leaf.grad is not None
        results[engine] = loss.item(), leaf.grad
    (loss, gradient), (ours, slope) = results["reference"], results["shared"]
    apart = {
        "loss": abs(ours - loss) / abs(loss),
        "gradient": float((slope - gradient).norm() / gradient.norm()),
    }
    # bfloat16 keeps three digits, and both engines round in their own order.
    bounds = (1e-4, 1e-2) if backbone.dtype == torch.float32 else (2e-2, 2e-1)
    if not (apart["loss"] <= bounds[0] and apart["gradient"] <= bounds[1]):
        raise RuntimeError(f"shared differs from reference in {backbone.dtype}: {apart}")
    return apart


def _loss(backbone: Any, engine: str, prompts: torch.Tensor, batch: TextBatch) -> torch.Tensor:
    backbone.engine = engine
    prompt_batch = PromptBatch(prompts, torch.ones(prompts.shape[:2], dtype=torch.bool, device=prompts.device))
    assert batch.targets is not None
    losses = task_losses(backbone.logits(prompt_batch, batch), batch.targets)
    return losses.sum() / ROWS


def timed(backbone: Any, plain: Any, count: int) -> dict[str, Any]:
    """Seconds of a step of all prompts, and what PEFT takes for as many prompts."""
    prompts, batch = drawn(backbone, count)
    sides: dict[str, Callable[[], None]] = {
        engine: _ours(backbone, engine, prompts, batch) for engine in ("shared", "reference")
    }
    sides["peft"] = _peft(plain, prompts[0], batch.select(torch.arange(ROWS, device=batch.ids.device)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory: dict[str, float] = {}
    for turn in range(WARM + TURNS):
        for name in list(sides):
            try:
                taken, peak = _taken(sides[name], backbone.device)
            except torch.OutOfMemoryError:
                del seconds[name], sides[name]
                continue
            memory[name] = peak
            if turn >= WARM:
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items() if values}
    found: dict[str, Any] = {"seconds": {name: round(value, 5) for name, value in medians.items()}, "gigabytes": memory}
    if "shared" in medians:
        # A side that has run out of memory has no time.
        if "peft" in medians:
            found["peft_over_shared_per_run"] = round(count * medians["peft"] / medians["shared"], 2)
        if "reference" in medians:
            found["reference_over_shared"] = round(medians["reference"] / medians["shared"], 2)
    return found


def _taken(step: Callable[[], None], device: torch.device) -> tuple[float, float]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    begun = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    taken = time.perf_counter() - begun
    return taken, round(torch.cuda.max_memory_allocated() / 1e9, 2) if device.type == "cuda" else 0.0


def _ours(backbone: Any, engine: str, prompts: torch.Tensor, batch: TextBatch) -> Callable[[], None]:
    leaf = prompts.clone().requires_grad_()
    optimizer = torch.optim.AdamW([leaf], lr=1e-3)

    def step() -> None:
        _loss(backbone, engine, leaf, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _peft(plain: Any, prompt: torch.Tensor, batch: TextBatch) -> Callable[[], None]:
    """PEFT's prompt tuning in bfloat16, with its own loss over rows padded to the longest."""
    from peft import PromptTuningConfig, TaskType, get_peft_model

    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=len(prompt))
    model: Any = get_peft_model(plain, config)
    embedding = model.prompt_encoder[model.active_adapter].embedding.weight
    embedding.data.copy_(prompt)
    optimizer = torch.optim.AdamW([embedding], lr=1e-3)
    assert batch.targets is not None
    lengths = batch.mask.sum(1) + 1
    width = int(lengths.max())
    ids = torch.nn.functional.pad(batch.ids, (0, 1))[:, :width].clone()
    labels = torch.full_like(ids, -100)
    rows = torch.arange(len(ids), device=ids.device)
    ids[rows, lengths - 1] = labels[rows, lengths - 1] = batch.targets[:, 0]
    mask = (torch.arange(width, device=ids.device) < lengths[:, None]).long()

    def step() -> None:
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
