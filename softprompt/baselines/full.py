"""Full fine-tuning and BitFit: copies of a model's own parameters are trained, all of them or the biases alone."""

from collections.abc import Callable
from typing import Any

from torch import nn

from ..backbones import AbstractBackbone
from ..errors import UnsupportedModel
from .swap import Place, Swap


def full(backbone: AbstractBackbone) -> Swap:
    """Return copies of all parameters. A tied table is one parameter, and stays tied."""
    return copies(backbone.model, lambda name: True)


def bitfit(backbone: AbstractBackbone) -> Swap:
    """Return copies of the biases (BitFit, Ben Zaken et al., 2022, arXiv:2106.10199).

    Raises:
        UnsupportedModel: the model has no bias, as T5 and Llama have none.
    """
    swap = copies(backbone.model, lambda name: name.rpartition(".")[2] == "bias")
    if not swap.names:
        raise UnsupportedModel(
            f"'bitfit' trains biases, and {backbone.name!r} ({backbone.model.config.model_type}) has none; "
            "choose 'lora' or 'full'"
        )
    return swap


def copies(model: Any, is_chosen: Callable[[str], bool]) -> Swap:
    """Return trainable copies of the parameters whose name is chosen, each with all its places in the model."""
    trained: dict[str, nn.Parameter] = {}
    names: dict[int, str] = {}
    places: list[Place] = []
    for path, module in model.named_modules():
        for attribute, original in module.named_parameters(recurse=False, remove_duplicate=False):
            name = names.get(id(original)) or (f"{path}.{attribute}" if path else attribute)
            if not is_chosen(name):
                continue
            if name not in trained:
                trained[name] = nn.Parameter(original.detach().clone())
                names[id(original)] = name
            places.append(Place(module, attribute, original, trained[name]))
    return Swap(trained, places)
