"""A prompt that was trained by another tool: vectors, and the little that is known about their backbone."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones.base import AbstractBackbone
from ..errors import BadInput, ModelMismatch, pick
from ..prompts.prompt import BackboneIdentity, Provenance, SoftPrompt

# How a prompt for each kind of backbone answers by default.
ANSWERS = {"encoder-decoder": "tokens", "encoder": "label-words", "decoder": "tokens"}


def imported(
    vectors: Float[Tensor, "n e"],
    identity: BackboneIdentity,
    backbone: AbstractBackbone | None,
    training: dict[str, str | int],
) -> SoftPrompt:
    """The prompt of these vectors, bound to `backbone` if it is given, else to what `identity` says of it.

    Args:
        vectors: of any floating dtype, for the checkpoint's own embeddings.
        identity: name, kind and width; its embedding hash is not known.
        backbone: the frozen model itself, for its hash and its embedding scale.
        training: where the vectors come from.

    Raises:
        BadInput: numbers that are not finite in float32, or a backbone that answers by a head, which is missing.
        ModelMismatch: vectors of another width than the backbone's.
        UnknownName: a kind of backbone that does not exist.
    """
    answers = pick("kind", identity.kind, ANSWERS)
    if backbone is not None:
        width, needed = identity.embedding_size, backbone.embedding_size
        if width != needed:
            raise ModelMismatch(
                f"these vectors are {width} wide, {backbone.name!r} needs {needed}; give the model they belong to"
            )
        if backbone.answers == "linear-head":
            raise BadInput(
                f"{backbone.name!r} was loaded to answer by a linear head, which is not among these vectors; "
                "load it with --answers=label-words"
            )
        identity, answers = dataclasses.replace(backbone.identity(), embedding_scale=1.0), backbone.answers
    provenance = Provenance(method="imported", backbone=identity, answers=answers, training=training)
    prompt = SoftPrompt(vectors.to(torch.float32), provenance)
    return prompt if backbone is None else prompt.at_scale(backbone.embedding_scale)
