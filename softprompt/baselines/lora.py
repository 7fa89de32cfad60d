"""LoRA by PEFT: low-rank matrices beside linear layers, W x + (alpha / r) B A dropout(x) (Hu et al., 2021).

PEFT builds the layers, so that targets, shapes, initial values and the forward pass are its own (arXiv:2106.09685).
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..errors import BadInput, UnsupportedModel
from ..prompts.seeds import seeded
from ..prompts.tuned import TunedWeights
from ..store import tensor_bytes, write_folder
from .swap import Place, Swap

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "default"
# What PEFT puts before the names of a model's modules in its own files.
PREFIX = "base_model.model."


def lora(backbone: AbstractBackbone, options: Mapping[str, Any], seed: int) -> Swap:
    """Return new LoRA matrices for a model, beside the layers that PEFT chooses for its type or that are named.

    Args:
        backbone: the model, which stays as it is.
        options: `r`, `alpha`, `dropout`, and `targets`, names of modules joined by commas; empty for PEFT's choice.
        seed: of the initial matrices A; the matrices B begin at zero.

    Raises:
        BadInput: a rank, a scale or a dropout that cannot be, or targets that the model does not have.
        UnsupportedModel: PEFT knows no targets for models of this type, or the model has adapters already.
    """
    model = backbone.model
    if any(True for _ in _places(model)):
        raise UnsupportedModel(f"{backbone.name!r} has adapters of PEFT already; merge them (merge_and_unload) first")
    before = set(vars(model))
    try:
        with seeded(seed, backbone.device):
            _inject(backbone, _config(options))
        places = list(_places(model))
    finally:
        for place in _places(model):
            setattr(place.owner, place.attribute, place.original)
        for name in set(vars(model)) - before:
            delattr(model, name)
    layers = list(_named(model, places))
    trained = {
        f"{path}.{matrix}.weight": getattr(layer, matrix)[ADAPTER].weight
        for path, layer in layers
        for matrix in ("lora_A", "lora_B")
    }
    return Swap(trained, places, [layer.lora_dropout for _, layer in layers])


def _config(options: Mapping[str, Any]) -> "LoraConfig":
    from peft import LoraConfig

    r, alpha, dropout = options["r"], options["alpha"], options["dropout"]
    if r < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise BadInput(
            f"a LoRA needs r of at least 1, alpha above 0 and a dropout from 0 to below 1, not r={r}, alpha={alpha:g}, "
            f"dropout={dropout:g}"
        )
    targets = [name for name in options["targets"].split(",") if name] or None
    return LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)


def _inject(backbone: AbstractBackbone, config: "LoraConfig") -> None:
    """Let PEFT put its layers into the model."""
    from peft import inject_adapter_in_model

    try:
        with warnings.catch_warnings():
            # It says that it reads GPT-2's layers as what they are.
            warnings.filterwarnings("ignore", message="fan_in_fan_out")
            inject_adapter_in_model(config, backbone.model, adapter_name=ADAPTER)
    except ValueError as error:
        name, kind = backbone.name, backbone.model.config.model_type
        if config.target_modules is None:
            raise UnsupportedModel(
                f"PEFT knows no layers of {name!r} ({kind}) for a LoRA; give --method-option targets=NAME,NAME"
            ) from error
        raise BadInput(
            f"{name!r} ({kind}) has no linear layers {', '.join(sorted(config.target_modules))} for a LoRA; "
            "give --method-option targets= with names of its modules"
        ) from error


def _places(model: nn.Module) -> Iterator[Place]:
    """Yield the places in which PEFT's layers stand now."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for owner in list(model.modules()):
        for attribute, layer in owner.named_children():
            if isinstance(layer, BaseTunerLayer):
                yield Place(owner, attribute, layer.get_base_layer(), layer)


def _named(model: nn.Module, places: list[Place]) -> Iterator[tuple[str, Any]]:
    """Yield the path of each place in the model and the layer of PEFT that belongs there."""
    layers = {id(place.original): place.trained for place in places}
    yield from ((path, layers[id(module)]) for path, module in model.named_modules() if id(module) in layers)


def save_peft(tuned: TunedWeights, folder: Path) -> Path:
    """Write a stored LoRA as a folder that `PeftModel.from_pretrained` reads, without its linear head.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    config = _config(tuned.options)
    config.base_model_name_or_path = tuned.provenance.backbone.name
    config.inference_mode = True
    config.target_modules = sorted({name.rpartition(".lora_")[0] for name in tuned.weights})
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    contents = {
        "adapter_config.json": json.dumps(values, indent=1, sort_keys=True).encode() + b"\n",
        "adapter_model.safetensors": tensor_bytes(_by_pefts_names(tuned.weights)),
    }
    return write_folder(folder, contents, what="the LoRA for PEFT", manifest=False)


def _by_pefts_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {PREFIX + name: weight for name, weight in weights.items()}
