"""BitFit (Ben Zaken et al., 2022, arXiv:2106.10199): the biases of a model are trained, or biases that it lacks."""

from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..errors import UnsupportedModel
from .full import copies, is_norm
from .swap import Place, Start, Swap


@final
class Shifted(nn.Module):
    """A norm of the model that has no bias, with one after it: y + b, where y is the norm's output.

    Args:
        norm: the model's own norm.
        bias: b, which begins at zero.
    """

    def __init__(self, norm: nn.Module, bias: nn.Parameter):
        super().__init__()
        self.norm, self.bias = norm, bias

    def forward(self, states: Float[Tensor, "*b e"]) -> Float[Tensor, "*b e"]:
        """Return the norm's output plus the bias."""
        return self.norm(states) + self.bias


def bitfit(backbone: AbstractBackbone, options: Mapping[str, Any], start: Start) -> Swap:
    """Return copies of the biases, and with `add_missing` new ones where a model was made without.

    T5 and Llama have no biases. Compacter (Mahabadi et al., 2021, arXiv:2106.04647) gives a T5 one after each linear
    layer, the one before the vocabulary among them, and after each norm; the tables of ATTEMPT and EPT quote its
    scores. Of T5-base these are 282,496 numbers, "280K" in table 4 of the EPT paper.

    Args:
        backbone: the model, which stays as it is.
        options: `add_missing`, whether linear layers and norms without a bias get one of zeros.
        start: not read; nothing here is random.

    Raises:
        UnsupportedModel: the model has no bias, and none is added.
    """
    swap = copies(backbone.model, lambda name: name.rpartition(".")[2] == "bias")
    # Weights that were stored before there was this option have none.
    if options.get("add_missing"):
        return _with_missing(swap, backbone)
    if not swap.names:
        raise UnsupportedModel(
            f"'bitfit' trains biases, and {backbone.name!r} ({backbone.model.config.model_type}) has none; give "
            "--method-option add_missing=true to add biases of zero, or choose 'lora' or 'full'"
        )
    return swap


def _with_missing(swap: Swap, backbone: AbstractBackbone) -> Swap:
    """The copies of biases and new ones."""
    trained = dict(zip(swap.names, swap.trained, strict=True))
    places = list(swap.places)
    for path, module, width in missing_biases(backbone.model):
        bias = nn.Parameter(torch.zeros(width, dtype=backbone.dtype, device=backbone.device))
        trained[f"{path}.bias"] = bias
        if isinstance(module, nn.Linear):
            places.append(Place(module, "bias", None, bias))
        else:
            places.append(Place.at(backbone.model, path, Shifted(module, bias)))
    return Swap(trained, places)


def missing_biases(model: Any) -> Iterator[tuple[str, nn.Module, int]]:
    """Linear layers and norms without a bias, each once, with their paths and the size of their outputs."""
    for path, module in model.named_modules():
        if getattr(module, "bias", None) is not None:
            continue
        if isinstance(module, nn.Linear):
            yield path, module, module.out_features
        elif is_norm(module) and isinstance(weight := getattr(module, "weight", None), Tensor):
            yield path, module, len(weight)
