"""A prompt that was trained by another tool: vectors, and the little that is known about their backbone."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import pick
from ..prompts.prompt import BackboneIdentity, Provenance, SoftPrompt

# How a prompt for each kind of backbone answers by default.
ANSWERS = {"encoder-decoder": "tokens", "encoder": "label-words", "decoder": "tokens"}


def imported(vectors: Float[Tensor, "n e"], identity: BackboneIdentity, training: dict[str, str | int]) -> SoftPrompt:
    """The prompt of these vectors, for what `identity` says of its backbone.

    Args:
        vectors: of any floating dtype, for the checkpoint's own embeddings.
        identity: name, kind and width; its embedding hash is not known.
        training: where the vectors come from.

    Raises:
        BadInput: numbers that are not finite in float32.
        UnknownName: a kind of backbone that does not exist.
    """
    answers = pick("kind", identity.kind, ANSWERS)
    provenance = Provenance(method="imported", backbone=identity, answers=answers, training=training)
    return SoftPrompt(vectors.to(torch.float32), provenance)
