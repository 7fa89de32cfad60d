"""How the layers of an encoder change the states at a prompt's positions, and how far these depend on the text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..data import Examples
from ..errors import BadInput
from ..prompts.batch import PromptBatch
from ..prompts.prompt import SoftPrompt
from ..prompts.units import WordScale

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The states h at the prompt's positions after one layer, compared with the prompt vectors p.

    All values are means over texts and positions.

    Args:
        layer: number of the layer, from 1.
        norm: ||h||, in token norms.
        moved: ||h - p|| / ||p||.
        kept: cosine of the angle between h and p.
        varies: sqrt(mean ||h - h_mean||^2 / mean ||h||^2), where h_mean is the mean over texts: the share of a state
            that depends on the text; 0 for a constant state.
    """

    layer: int
    norm: float
    moved: float
    kept: float
    varies: float


@torch.no_grad()
def drift(backbone: AbstractBackbone, prompt: SoftPrompt, texts: Examples) -> list[Drift]:
    """Measure how far each layer of the encoder moves the states at the prompt's positions away from its vectors.

    Args:
        backbone: an encoder-decoder.
        prompt: an ordinary prompt of this backbone, not a deep one.
        texts: the texts that follow the prompt.

    Raises:
        BadInput: the backbone is of another kind, the prompt has no vectors or is deep, or there are no texts.
    """
    if backbone.kind != "encoder-decoder":
        raise BadInput(
            f"{backbone.name!r} is a {backbone.kind}; the drift of a prompt is measured in an encoder-decoder"
        )
    if prompt.length == 0 or prompt.deep is not None:
        raise BadInput("the drift of a prompt needs vectors that enter the first layer only; give an ordinary prompt")
    if len(texts) == 0:
        raise BadInput("the drift of a prompt is measured on texts; give at least one")
    states = torch.cat(list(_states(backbone, prompt, texts)), 1).double()
    vectors = prompt.expanded().to(states.device, torch.float64)
    token_norm = WordScale.of(backbone.word_vectors).token_norm
    return [_drift(layer, vectors, layer_states, token_norm) for layer, layer_states in enumerate(states, 1)]


def _drift(layer: int, vectors: Float[Tensor, "n e"], states: Float[Tensor, "b n e"], token_norm: float) -> Drift:
    lengths = vectors.norm(dim=-1)
    deviations = states - states.mean(0)
    return Drift(
        layer=layer,
        norm=(states.norm(dim=-1).mean() / token_norm).item(),
        moved=((states - vectors).norm(dim=-1) / lengths).mean().item(),
        kept=torch.cosine_similarity(states, vectors.expand_as(states), dim=-1).mean().item(),
        varies=(deviations.square().sum() / states.square().sum()).sqrt().item(),
    )


def _states(backbone: AbstractBackbone, prompt: SoftPrompt, texts: Examples) -> Iterator[Float[Tensor, "k b n e"]]:
    """Yield the states at the prompt's positions after each of the k layers, batch by batch."""
    prompt_batch = PromptBatch.of(prompt, device=backbone.device)
    for start in range(0, len(texts), BATCH):
        rows = list(range(start, min(start + BATCH, len(texts))))
        batch = texts.batch(rows, 0, backbone.pad_id).to(backbone.device)
        with _recorded(backbone.layers) as outputs:
            backbone.text_states(prompt_batch, batch)
        # The texts are padded on the right, so the prompt takes the first columns.
        yield torch.stack([output[:, : prompt.length] for output in outputs])


@contextmanager
def _recorded(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the output of each layer during one pass inside the `with` block."""
    outputs: list[Tensor] = []

    def record(layer: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
