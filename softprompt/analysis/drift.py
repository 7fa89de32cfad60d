"""What becomes of a prompt's positions between an encoder's layers: kept, overwritten, or filled with the text."""

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
    """States h at the prompt's positions behind one layer, against the prompt vectors p that went in.

    All are means over texts and positions.

    Args:
        layer: 1, 2 ...
        norm: ||h||, in token norms.
        moved: ||h - p|| / ||p||.
        kept: cosine of the angle between h and p.
        varies: sqrt(mean ||h - h_mean||^2 / mean ||h||^2), with h_mean over texts: how much of a state depends on the
            text, 0 where it is a constant.
    """

    layer: int
    norm: float
    moved: float
    kept: float
    varies: float


@torch.no_grad()
def drift(backbone: AbstractBackbone, prompt: SoftPrompt, texts: Examples) -> list[Drift]:
    """How far an encoder's layers carry a prompt's states from its vectors, one entry a layer.

    Args:
        backbone: an encoder-decoder.
        prompt: for it, not a deep one.
        texts: what is read behind it.

    Raises:
        BadInput: another kind of backbone, a prompt without vectors or a deep one, or no texts.
    """
    if backbone.kind != "encoder-decoder":
        raise BadInput(
            f"{backbone.name!r} is a {backbone.kind}; the drift of a prompt is measured in an encoder-decoder"
        )
    if prompt.length == 0 or prompt.deep is not None:
        raise BadInput("the drift of a prompt needs vectors that enter the first layer only; give an ordinary prompt")
    if len(texts) == 0:
        raise BadInput("no texts, no drift; give at least one")
    states = torch.cat(list(_states(backbone, prompt, texts)), 1).double()
    vectors = prompt.expanded().to(states.device, torch.float64)
    token_norm = WordScale.of(backbone.word_vectors).token_norm
    return [_drift(layer, vectors, one, token_norm) for layer, one in enumerate(states, 1)]


def _drift(layer: int, vectors: Float[Tensor, "n e"], states: Float[Tensor, "b n e"], token_norm: float) -> Drift:
    lengths = vectors.norm(dim=-1)
    around = states - states.mean(0)
    return Drift(
        layer=layer,
        norm=(states.norm(dim=-1).mean() / token_norm).item(),
        moved=((states - vectors).norm(dim=-1) / lengths).mean().item(),
        kept=torch.cosine_similarity(states, vectors.expand_as(states), dim=-1).mean().item(),
        varies=(around.square().sum() / states.square().sum()).sqrt().item(),
    )


def _states(backbone: AbstractBackbone, prompt: SoftPrompt, texts: Examples) -> Iterator[Float[Tensor, "k b n e"]]:
    """The states at the prompt's positions behind each of the k layers, batch by batch."""
    prompt_batch = PromptBatch.of(prompt, device=backbone.device)
    for start in range(0, len(texts), BATCH):
        rows = list(range(start, min(start + BATCH, len(texts))))
        batch = texts.batch(rows, 0, backbone.pad_id).to(backbone.device)
        with _behind(backbone.layers) as seen:
            backbone.text_states(prompt_batch, batch)
        # Padding is behind the text, so that the prompt is the first columns.
        yield torch.stack([state[:, : prompt.length] for state in seen])


@contextmanager
def _behind(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Within, what each layer puts out in one pass, in their order."""
    seen: list[Tensor] = []

    def look(layer: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(look) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
