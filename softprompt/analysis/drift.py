"""How the layers of a model change the states at a prompt's positions, and how far these depend on the text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import AbstractBackbone, in_evaluation
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
            that depends on the text; 0 for a constant state, which all states of a decoder's prompt are.
    """

    layer: int
    norm: float
    moved: float
    kept: float
    varies: float


@torch.no_grad()
@in_evaluation
def drift(backbone: AbstractBackbone, prompt: SoftPrompt, texts: Examples) -> list[Drift]:
    """Measure how far each layer moves the states at the prompt's positions away from its vectors.

    In an encoder-decoder these are the layers of the encoder.

    Args:
        backbone: whose passes are those of transformers.
        prompt: an ordinary prompt of this backbone, not a deep one.
        texts: the texts that follow the prompt.

    Raises:
        BadInput: the prompt has no vectors or is deep, there are no texts, or the states of the model have another
            width than its word vectors.
    """
    if prompt.length == 0 or prompt.deep is not None:
        raise BadInput("the drift of a prompt needs vectors that enter the first layer only; give an ordinary prompt")
    if len(texts) == 0:
        raise BadInput("the drift of a prompt is measured on texts; give at least one")
    states = torch.cat(list(_states(backbone, prompt, texts)), 1).double()
    if states.shape[-1] != prompt.vectors.shape[-1]:
        raise BadInput(
            f"the states of {backbone.name!r} have {states.shape[-1]} numbers and its word vectors "
            f"{prompt.vectors.shape[-1]}, so the drift of a prompt is not defined; choose another analysis"
        )
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
    # A decoder's prompt does not see the text after it, so that one text shows what all would.
    count = 1 if backbone.kind == "decoder" else len(texts)
    for start in range(0, count, BATCH):
        rows = list(range(start, min(start + BATCH, count)))
        batch = texts.batch(rows, 0, backbone.pad_id).to(backbone.device)
        with _recorded(backbone.layers) as outputs:
            backbone.text_states(prompt_batch, batch)
        # Texts are padded on the right, or there is one alone, so the prompt takes the first columns.
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
