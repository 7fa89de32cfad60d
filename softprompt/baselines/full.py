"""Full fine-tuning: copies of a model's own parameters are trained."""

from collections.abc import Callable
from typing import Any

from torch import nn

from ..backbones import AbstractBackbone
from .swap import Place, Swap


def full(backbone: AbstractBackbone) -> Swap:
    """Return copies of all parameters. A tied table is one parameter, and stays tied."""
    return copies(backbone.model, lambda name: True)


def is_norm(module: nn.Module) -> bool:
    """Whether a module of a model normalises states, as its class is called in transformers and torch."""
    return "Norm" in type(module).__name__


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
