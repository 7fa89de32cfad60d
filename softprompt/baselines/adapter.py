"""Adapters of Houlsby et al. (2019, arXiv:1902.00751), and AdapterDrop (Rücklé et al., 2021, arXiv:2010.11918)."""

from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..errors import BadInput, UnsupportedModel
from ..prompts.seeds import seeded
from .full import copies, is_norm
from .peft_layers import names_in
from .swap import Place, Start, Swap

# The last linear layers of self-attention and feed-forward blocks, by the ends of their names: T5; GPT-2; Llama, Qwen,
# Mistral, Gemma; OPT, BART; BERT, RoBERTa, ELECTRA; DistilBERT; MPNet; ALBERT.
TARGETS = (
    "SelfAttention.o", "DenseReluDense.wo", "attn.c_proj", "mlp.c_proj", "self_attn.o_proj", "mlp.down_proj",
    "self_attn.out_proj", "fc2", "attention.output.dense", "output.dense", "attention.out_lin", "ffn.lin2",
    "attention.attn.o", "attention.dense", "ffn_output",
)  # fmt: skip
# The initial weights are normal with this standard deviation, cut at two of them.
DEVIATION = 1e-2


@final
class Adapted(nn.Module):
    """A linear layer of the model with an adapter after it: y + U gelu(D y + d) + u, where y is the layer's output.

    Args:
        layer: the model's own layer.
        width: size of its output.
        bottleneck: size of what is between D and U.
    """

    def __init__(self, layer: nn.Module, width: int, bottleneck: int):
        super().__init__()
        self.layer = layer
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=DEVIATION, a=-2 * DEVIATION, b=2 * DEVIATION)
            nn.init.zeros_(linear.bias)

    @property
    def weight(self) -> Tensor:
        """The weight of the model's own layer, at whose precision T5 looks."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, states: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Return the layer's output and what the adapter adds to it."""
        output = self.layer(states)
        return output + self.up(nn.functional.gelu(self.down(output)))


def adapter(backbone: AbstractBackbone, options: Mapping[str, Any], start: Start) -> Swap:
    """Return new adapters for a model, after the self-attention and the feed-forward block of each layer.

    Args:
        backbone: the model, which stays as it is.
        options: `bottleneck`; `norms`, whether copies of the model's norms are trained, too; `targets`, the ends of the
            names of the linear layers that adapters follow, joined by commas, empty for those of known families.
        start: its seed gives the initial weights, which are near zero.

    Raises:
        BadInput: a bottleneck below 1, or targets that the model does not have.
        UnsupportedModel: none of the known layers are in the model.
    """
    return _adapters(backbone, options, start.seed, lowest=0.0)


def adapter_drop(backbone: AbstractBackbone, options: Mapping[str, Any], start: Start) -> Swap:
    """Return adapters as `adapter` does, without those in the lowest layers of each stack.

    Args:
        backbone: the model, which stays as it is.
        options: those of `adapter`, and `share`, which part of the layers has no adapters.
        start: its seed gives the initial weights, which are near zero.

    Raises:
        BadInput: a share below 0 or that leaves no layer; and as in `adapter`.
        UnsupportedModel: as in `adapter`.
    """
    return _adapters(backbone, options, start.seed, lowest=options["share"])


def _adapters(backbone: AbstractBackbone, options: Mapping[str, Any], seed: int, lowest: float) -> Swap:
    bottleneck, model = options["bottleneck"], backbone.model
    if bottleneck < 1 or not 0 <= lowest < 1:
        raise BadInput(f"adapters need a bottleneck of at least 1 and a share from 0 to below 1, not {dict(options)}")
    layers_of_model = _targets(backbone, options["targets"])
    chosen = list(_above(layers_of_model, lowest))
    stacks = [{_stack_and_number(path)[0] for path, _ in layers} for layers in (layers_of_model, chosen)]
    if stacks[0] != stacks[1]:
        raise BadInput(f"a share of {lowest:g} leaves a stack of layers without any adapter; give a smaller share")
    with seeded(seed, torch.device("cpu")):
        layers = {path: Adapted(layer, _width(layer), bottleneck) for path, layer in chosen}
    trained = {
        f"{path}.adapter.{part}.{name}": parameter
        for path, layer in layers.items()
        for part in ("down", "up")
        for name, parameter in getattr(layer.to(backbone.device, backbone.dtype), part).named_parameters()
    }
    places = [Place.at(model, path, layer) for path, layer in layers.items()]
    if not options["norms"]:
        return Swap(trained, places)
    norms = {path for path, module in model.named_modules() if is_norm(module)}
    copied = copies(model, lambda name: name.rpartition(".")[0] in norms)
    return Swap({**trained, **dict(zip(copied.names, copied.trained, strict=True))}, [*places, *copied.places])


def _targets(backbone: AbstractBackbone, targets: str) -> list[tuple[str, nn.Module]]:
    """Return the layers that adapters follow, with their paths."""
    ends = tuple(names_in(targets) or TARGETS)
    places = [
        (path, module)
        for path, module in backbone.model.named_modules()
        if f".{path}".endswith(tuple(f".{end}" for end in ends)) and isinstance(getattr(module, "weight", None), Tensor)
    ]
    kind = backbone.model.config.model_type
    if not places and targets:
        raise BadInput(f"{backbone.name!r} ({kind}) has no linear layers {targets}; give names of its modules")
    if not places:
        raise UnsupportedModel(
            f"the layers of {backbone.name!r} ({kind}) that adapters follow are not known; give --method-option "
            "targets=NAME,NAME"
        )
    return places


def _above(layers: list[tuple[str, nn.Module]], share: float) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers that are not in the lowest part of their stack."""
    numbers = {path: _stack_and_number(path) for path, _ in layers}
    depths = {stack: 1 + max(n for s, n in numbers.values() if s == stack) for stack, _ in numbers.values()}
    for path, layer in layers:
        stack, number = numbers[path]
        if number >= round(share * depths[stack]):
            yield path, layer


def _stack_and_number(path: str) -> tuple[str, int]:
    """Return the part of a path before its first number, and that number, which counts the layers of a stack."""
    names = path.split(".")
    place = next((place for place, name in enumerate(names) if name.isdigit()), None)
    return (path, 0) if place is None else (".".join(names[:place]), int(names[place]))


def _width(layer: Any) -> int:
    """Return the size of a linear layer's output. GPT-2 has weights of [in, out]."""
    return layer.nf if hasattr(layer, "nf") else layer.out_features
