"""A plain reference of every method that trains weights, by its published formula, and a plain loop that trains it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from softprompt.baselines.kinds import swap_for
from softprompt.baselines.swap import Start
from softprompt.data import load_rows, split_rows, stream
from softprompt.inference.asked import worded_for
from softprompt.inference.rows import examples_for
from softprompt.losses import task_losses
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.contract import new_head
from softprompt.prompts.methods import METHODS
from softprompt.prompts.prompt import LinearHead
from softprompt.prompts.seeds import stream_seed
from torch import Tensor
from torch.nn import functional

from baselines_kit import KEPT, NO_BIASES, peft_model, plain_logits


@dataclass(frozen=True)
class Plain:
    """What is trained, and how the model computes with it.

    Args:
        trained: the parameters by name.
        change: what the words of one row become; None where they stay.
        model: what computes in place of the backbone's model; None is that one.
        rates: of the parameters that have a rate of their own.
        measured: the parameters that are measured in the root mean square of the word embeddings.
    """

    trained: Mapping[str, Any]
    change: Callable[[Tensor], Tensor] | None = None
    model: Any = None
    rates: Mapping[str, float] = field(default_factory=dict)
    measured: tuple[str, ...] = ()


def full(backbone, method, seed, sources) -> Plain:
    return _own(backbone, lambda name: True)


def bitfit(backbone, method, seed, sources) -> Plain:
    """The biases; zeros by hooks on every linear layer and norm of a model that has none."""
    if backbone.name not in NO_BIASES:
        return _own(backbone, lambda name: name.endswith("bias"))
    trained = {}
    for path, module in backbone.model.named_modules():
        if not isinstance(module, torch.nn.Linear) and "Norm" not in type(module).__name__:
            continue
        trained[path] = torch.nn.Parameter(torch.zeros(len(module.weight)))
        module.register_forward_hook(lambda module, arguments, y, b=trained[path]: y + b)
    return Plain(trained)


def adapters(backbone, method, seed, sources) -> Plain:
    """Adapters by hooks on the model, and its norms, with the initial values of this seed."""
    swap = swap_for(method, backbone, METHODS[method].options, Start(stream_seed(seed, "network")))
    trained = {name: torch.nn.Parameter(values) for name, values in swap.weights().items() if ".adapter." in name}
    for path in {name.partition(".adapter.")[0] for name in trained}:

        def add(module, arguments, y, path=path):
            down, d, up, u = (
                trained[f"{path}.adapter.{n}"] for n in ("down.weight", "down.bias", "up.weight", "up.bias")
            )
            return y + functional.gelu(y @ down.T + d) @ up.T + u

        backbone.model.get_submodule(path).register_forward_hook(add)
    norms = _own(backbone, lambda name: name in swap.names)
    return Plain(trained | dict(norms.trained))


def within_peft(backbone, method, seed, sources) -> Plain:
    """LoRA and (IA)3 as stock PEFT puts them into the model."""
    return Plain(_trained_of(peft_model(backbone, seed, method)))


def before_keys(backbone, method, seed, sources) -> Plain:
    """Keys and values as stock PEFT puts them before a model's own."""
    model = peft_model(backbone, seed, method)
    return Plain(_trained_of(model), model=model)


def dept(backbone, method, seed, sources) -> Plain:
    """A short prompt before words that are moved by the product of two matrices."""
    p = _beginning(backbone, method, seed, sources)

    def moved(words):
        return torch.cat([p["prompt"], words + (p["a"] @ p["b"])[: len(words)]])

    rate = METHODS[method].options["embedding_lr"]
    return Plain(p, moved, rates=dict.fromkeys(("a", "b"), rate), measured=("prompt", "b"))


def attempt(backbone, method, seed, sources) -> Plain:
    """A prompt for each row: that of the task, and what its attention takes of the sources and of it."""
    p = _beginning(backbone, method, seed, sources)

    def mixed(words):
        prompts = [*sources, p["target"]]
        query = functional.silu(words.amax(0) @ p["down.weight"].T) @ p["up.weight"].T
        query = functional.layer_norm(query, query.shape, p["norm.weight"], p["norm.bias"])
        scores = torch.stack([prompt.amax(0) @ query for prompt in prompts]) / (math.e * len(query))
        prompt = p["target"] + sum(a * prompt for a, prompt in zip(scores.softmax(0), prompts, strict=True))
        return torch.cat([prompt, words])

    rate = METHODS[method].options["attention_lr"]
    return Plain(p, mixed, rates={name: rate for name in p if name != "target"}, measured=("target",))


# By method. MPT learns from several tasks before this one; tests/test_sources.py has its reference.
PLAIN: Mapping[str, Callable[..., Plain]] = {
    "full": full,
    "bitfit": bitfit,
    "adapter": adapters,
    "adapter-drop": adapters,
    "lora": within_peft,
    "ia3": within_peft,
    "prefix-tuning": before_keys,
    "cartridge": before_keys,
    "dept": dept,
    "attempt": attempt,
}


def plain_losses(backbone, task, method: str, seed: int, lr: float, sources: Sequence[Tensor]):
    """The loss of each step, and the weights and the head after the last, of a plain loop without our training."""
    plain = PLAIN[method](backbone, method, seed, sources)
    assert plain.trained
    labels = (len(task.labels), backbone.hidden_size) if backbone.answers == "linear-head" else None
    head = new_head(labels, seed)
    groups = _groups(plain, head, lr, backbone.word_vectors.square().mean().sqrt().item())
    optimizer, peaks = torch.optim.AdamW(groups), [group["lr"] for group in groups]
    task = worded_for(task, backbone.kind)
    rows = examples_for(backbone, task, split_rows(task, load_rows(task, None)).train, 0)
    losses = []
    for step, chosen in zip(range(1, 7), stream(rows.lengths, range(len(rows)), 8, seed=seed), strict=False):
        batch = rows.batch(chosen, 0, backbone.pad_id)
        assert batch.targets is not None
        loss = task_losses(_logits(backbone, batch, head, plain), batch.targets).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        moved = [(p, group["unit"]) for group in groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([unit * p.grad for p, unit in moved])
        torch.nn.utils.clip_grads_with_norm_([p for p, _ in moved], 0.5, norm)
        factor = step / 2 if step <= 2 else (6 - step + 1) / 4
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        optimizer.step()
    return losses, plain.trained, head


def _groups(plain: Plain, head: Any, lr: float, rms: float) -> list[dict[str, Any]]:
    groups = []
    for name, values in plain.trained.items():
        unit = rms if name in plain.measured else 1.0
        sizes = {"lr": unit * plain.rates.get(name, lr), "weight_decay": 0.01 / unit, "eps": 1e-8 / unit}
        groups.append({"params": [values], "unit": unit, **sizes})
    if head is not None:
        groups.append({"params": list(head.parameters()), "lr": 5e-3, "weight_decay": 0.0, "unit": 1.0})
    return groups


def _logits(backbone, batch, head, plain: Plain) -> Tensor:
    if plain.change is not None or plain.model is not None:
        return plain_logits(backbone, batch, head, plain.change, plain.model)
    heads = [] if head is None else [LinearHead(head.weight, head.bias)]
    return backbone.logits(PromptBatch.stack([torch.zeros(0, backbone.embedding_size)], heads), batch)


def _own(backbone, is_trained: Callable[[str], bool]) -> Plain:
    """Parameters of the model itself."""
    return Plain(
        {name: values.requires_grad_(True) for name, values in backbone.model.named_parameters() if is_trained(name)}
    )


def _trained_of(model) -> dict[str, Any]:
    return {name: values for name, values in model.named_parameters() if values.requires_grad}


def _beginning(backbone, method, seed, sources) -> dict[str, Any]:
    """What stands beside the words, with the initial values of this seed."""
    swap = swap_for(method, backbone, METHODS[method].options, Start(stream_seed(seed, "network"), sources))
    return {name: torch.nn.Parameter(values) for name, values in swap.weights().items() if name not in KEPT}
