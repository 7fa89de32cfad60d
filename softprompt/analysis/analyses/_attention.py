"""The share of their attention that text positions give to the prompt, by layer and head."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...backbones import AbstractBackbone, in_evaluation
from ...errors import UnsupportedModel
from ...prompts.batch import PromptBatch
from ...prompts.prompt import SoftPrompt
from ._base import Analysis, Values, short
from ._bench import Bench, refuse_none


def share(weights: Float[Tensor, "h s s"], length: int) -> Float[Tensor, " h"]:
    """The mean over text positions of the attention that each head gives to the first `length` positions.

    Args:
        weights: attention of each position to each one; rows sum to 1.
        length: positions of the prompt, the first ones.
    """
    return weights[:, length:, :length].sum(-1).mean(-1)


def equal_share(length: int, text: int, is_causal: bool) -> float:
    """The share that a prompt would get if each text position attended equally to all that it sees.

    Args:
        length: positions of the prompt.
        text: positions of the text.
        is_causal: whether the i-th position of the text sees only the first i of them.
    """
    seen = range(1, text + 1) if is_causal else [text]
    return sum(length / (length + n) for n in seen) / len(seen)


@contextmanager
def recorded(backbone: AbstractBackbone) -> Iterator[list[Tensor]]:
    """Within, the attention weights [1, h, s, s] of each layer that reads prompt and text, in order.

    Raises:
        UnsupportedModel: transformers cannot compute this model's attention with its weights.
    """
    weights: list[Tensor] = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple) else ():
            if isinstance(tensor, Tensor) and tensor.ndim == 4 and _are_weights(tensor):
                # A module around an attention hands on the same weights.
                if not any(tensor.data_ptr() == known.data_ptr() for known in weights):
                    weights.append(tensor.detach())
                return

    before = backbone.model.config._attn_implementation
    try:
        backbone.model.set_attn_implementation("eager")
    except (AttributeError, ValueError) as error:
        raise UnsupportedModel(f"{backbone.name!r} does not show its attention weights: {error}") from error
    modules = [m for layer in backbone.layers for m in layer.modules() if "attention" in type(m).__name__.lower()]
    handles = [module.register_forward_hook(record) for module in modules]
    try:
        yield weights
    finally:
        for handle in handles:
            handle.remove()
        backbone.model.set_attn_implementation(before)


def _are_weights(tensor: Tensor) -> bool:
    """Whether a tensor is attention and no bias over positions: its rows sum to 1."""
    sums = tensor.float().sum(-1)
    return tensor.shape[-1] == tensor.shape[-2] and bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-2).all())


@torch.no_grad()
@in_evaluation
def attention(backbone: AbstractBackbone, prompt: SoftPrompt, examples: Any) -> Float[Tensor, "k h"]:
    """The share of attention that the text gives to a prompt in each layer and head, mean over texts.

    Args:
        backbone: whose passes are those of transformers.
        prompt: of this backbone.
        examples: the texts after the prompt.

    Raises:
        UnsupportedModel: its attention weights cannot be seen.
    """
    prompt_batch, shares = PromptBatch.of(prompt, device=backbone.device), []
    for number in range(len(examples)):
        # One row at a time: without padding the prompt takes the first columns in every kind of model.
        row = examples.batch([number], 0, backbone.pad_id).to(backbone.device)
        with recorded(backbone) as weights:
            backbone.text_states(prompt_batch, row)
        if not weights:
            raise UnsupportedModel(f"{backbone.name!r} does not show its attention weights; choose another analysis")
        shares.append(torch.stack([share(tensor[0], prompt.length) for tensor in weights]))
    return torch.stack(shares).mean(0).cpu()


def compute(bench: Bench) -> Values:
    """The shares of each prompt, beside the share that equal attention would give."""
    prompts = []
    for subject in bench.subjects:
        refuse_none(subject, "attention")
        examples = bench.examples(subject, bench.drawn(subject))
        backbone = bench.backbone(subject)
        equal = [equal_share(subject.prompt.length, n, backbone.kind == "decoder") for n in examples.lengths.tolist()]
        shares = attention(backbone, subject.prompt, examples)
        prompts.append(
            {"prompt": subject.label, "shares": shares.tolist(), "share_of_positions": sum(equal) / len(equal)}
        )
    return {"rows": bench.rows, "prompts": prompts}


def draw(values: Values, figures: Any) -> Any:
    """A matrix of layers by heads for each prompt."""
    panels = {name: p["shares"] for name, p in zip(short(values), values["prompts"], strict=True)}
    return figures.heads_figure(panels)


def rows(values: Values) -> list[dict[str, Any]]:
    """The mean share in each layer."""
    return [
        {"prompt": p["prompt"], "share of positions": p["share_of_positions"]}
        | {f"layer {number}": sum(heads) / len(heads) for number, heads in enumerate(p["shares"], 1)}
        for p in values["prompts"]
    ]


ATTENTION = Analysis("share of attention that the text gives to the prompt, by layer and head", compute, draw, rows)
