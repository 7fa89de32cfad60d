"""Whether a family without tests here treats a prompt as it should: tried on the model itself when it is loaded."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..bank import Batch, PromptBank
from ..errors import UnsupportedModel

if TYPE_CHECKING:
    from ._base import AbstractBackbone

TEXT = "The first answer is yes and the second answer is no."
# Largest difference allowed, in units of the largest state: a wrong position or a pad that is read lies far above it.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
COARSE = 5e-2


@torch.no_grad()
def verify(backbone: "AbstractBackbone") -> None:
    """Refuse a model in which a prompt of word vectors does not act as those words, or padding changes a state.

    A few passes over one short text; families in KINDS are proven in the tests instead. Of a decoder also the scores
    are tried, which go on from a cache.

    Raises:
        UnsupportedModel: with the property that fails.
    """
    ids = backbone.tokenizer(TEXT + backbone.input_suffix, return_tensors="pt").input_ids.to(backbone.device)
    cut = ids.shape[1] // 3
    words = backbone.embeddings(ids[0]).float()
    rest = ids[:, cut:]
    shorter = torch.ones_like(rest, dtype=torch.bool)
    shorter[:, -cut:] = False
    both = torch.cat([torch.ones_like(shorter), shorter])
    try:
        as_words = _states(backbone, words[:0], ids, torch.ones_like(ids, dtype=torch.bool))[:, cut:]
        as_prompt = _states(backbone, words[:cut], rest, torch.ones_like(shorter))
        alone = _states(backbone, words[:cut], rest[:, :-cut], shorter[:, :-cut])
        padded = _states(backbone, words[:cut], torch.cat([rest, rest]), both)[1:, :-cut]
        cached, whole = _scores(backbone, words[:cut], rest) if backbone.kind == "decoder" else (alone, alone)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnsupportedModel(f"{backbone.name!r} ({_family(backbone)}) does not take a prompt: {reason}") from error
    _refuse_difference(backbone, as_words, as_prompt, "a prompt made of word vectors does not act as those words")
    _refuse_difference(backbone, alone, padded, "padding changes its states")
    _refuse_difference(backbone, whole, cached, "its cache changes its answers")


def _states(
    backbone: "AbstractBackbone", prompt: Float[Tensor, "n e"], ids: Tensor, mask: Tensor
) -> Float[Tensor, "b t d"]:
    owner = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    return backbone.text_states(PromptBank.stack([prompt]), Batch(ids, mask, owner)).float()


def _scores(
    backbone: "AbstractBackbone", prompt: Float[Tensor, "n e"], ids: Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The score of one answer of several tokens, from a cache and read in one pass."""
    (answer,) = backbone.encode_answers(["the second answer"])
    targets, mask = torch.tensor([answer], device=ids.device), torch.ones_like(ids, dtype=torch.bool)
    bank = PromptBank.stack([prompt])
    batch = Batch(ids, mask, torch.zeros(1, dtype=torch.long, device=ids.device), targets)
    logits = backbone.logits(bank, batch).float().log_softmax(-1)
    return backbone.label_scores(bank, batch, [answer])[0, 0].float(), logits.gather(2, targets[:, :, None]).sum()


def _refuse_difference(backbone: "AbstractBackbone", a: Tensor, b: Tensor, what: str) -> None:
    difference = (a - b).abs().max() / a.abs().max().clamp(min=1e-12)
    if not difference <= TOLERANCE.get(backbone.dtype, COARSE):
        raise UnsupportedModel(f"{backbone.name!r} ({_family(backbone)}) cannot be used: {what}")


def _family(backbone: "AbstractBackbone") -> str:
    return f"a {backbone.model.config.model_type}, a family without tests here"
