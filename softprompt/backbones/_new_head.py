"""An encoder whose checkpoint has no masked-LM head, with a new one: random, for training only."""

from typing import Any

import torch

from ..builtin import BUILT_IN
from ..errors import BadInput, UnsupportedModel
from ..prompts.seeds import seeded_cpu
from ._device import device_of
from ._names import refuse_no_folder, source_of
from ._read import read_configuration, read_encoder, read_tokenizer, silence
from .family import kind_of


def with_new_head(name: str, *, seed: int = 0, device: str = "auto") -> tuple[Any, Any]:
    """The frozen encoder under its family's masked-LM head, which alone requires gradients; and its tokenizer.

    The head's output matrix is the word embeddings, so that what is new is its transform and its biases.

    Args:
        name: folder or hub id.
        seed: of the head's initial weights.
        device: as in `load_backbone`.

    Raises:
        BadInput: no such model or device, or one that has a head.
        UnsupportedModel: no encoder, no mask token, or a head that does not share the word embeddings.
    """
    refuse_no_folder(name)
    if name in BUILT_IN:
        raise BadInput(f"the built-in {name!r} needs no new head; choose an encoder without a masked-LM head")
    place, source = device_of(device), source_of(name)
    with silence():
        if (kind := kind_of(read_configuration(source, None), name)) != "encoder":
            raise UnsupportedModel(f"{name!r} is of kind {kind}; a masked-LM head needs an encoder")
        tokenizer = read_tokenizer(source, None)
        with seeded_cpu(seed):
            model, missing = read_encoder(source, {"dtype": torch.float32})
    if not missing:
        raise BadInput(f"{name!r} has a masked-LM head already; use it as it is")
    if tokenizer.mask_token is None:
        raise UnsupportedModel(f"the tokenizer of {name!r} has no mask token; a masked-LM head needs one")
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        raise UnsupportedModel(f"the masked-LM head of {name!r} does not share its word embeddings; choose another")
    for key, weight in model.named_parameters():
        weight.requires_grad_(not key.startswith(f"{model.base_model_prefix}."))
    # Dropout would blur the states that the head is to read.
    return model.to(place).eval(), tokenizer
