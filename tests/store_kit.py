"""What the tests of stored folders share: a prompt, and folders that a stranger forged."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save
from softprompt.prompts.prompt import BackboneIdentity, LinearHead, Provenance, SoftPrompt
from softprompt.store import save_prompt


def a_prompt(m=2, e=6, repeats=5, classes=3, seed=0) -> SoftPrompt:
    generator = torch.Generator().manual_seed(seed)
    head = LinearHead(torch.randn(classes, 4, generator=generator), torch.randn(classes, generator=generator))
    provenance = Provenance(
        method="ept-star",
        backbone=BackboneIdentity("a/model", "encoder", e, "0" * 64),
        answers="linear-head",
        task={"name": "glue/sst2", "labels": ["0", "1"], "template": "sentence: {sentence} \u2014"},
        metrics={"validation": {"accuracy": 0.1 + 0.2}},
        seeds={"initialization": 3, "order": 4},
        training={"lr": 0.3, "best_step": 200},
        versions={"torch": "2.13.0"},
    )
    vectors = torch.randn(m, e, generator=generator)
    return SoftPrompt(vectors, provenance, repeats, head if classes else None)


def forge(folder: Path, contents: dict[str, bytes]) -> Path:
    """A folder with a truthful manifest over dishonest files: what a stranger can make."""
    files = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()}
    text = json.dumps({"format": 1, "files": files}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**contents, "manifest.json": text.encode()}.items():
        (folder / name).write_bytes(content)
    return folder


def forged_prompt(folder: Path, tensors=None, *, raw: bytes | None = None, **changes) -> Path:
    """The folder of a good prompt, with other tensors or bytes, a changed document, and true hashes."""
    good = save_prompt(a_prompt(classes=0), folder / "good")
    document = json.loads((good / "prompt.json").read_text())
    tensors = {"vectors": torch.ones(2, 6)} if tensors is None else tensors
    document["shapes"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        place[last] = value
    content = save(tensors) if raw is None else raw
    return forge(folder / "bad", {"prompt.safetensors": content, "prompt.json": json.dumps(document).encode()})
