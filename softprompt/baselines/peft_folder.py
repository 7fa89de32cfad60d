"""Trained weights as stock PEFT folders, which `PeftModel.from_pretrained` reads, and the way back."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backbones import AbstractBackbone
from ..errors import BadInput, ModelMismatch
from ..prompts.methods import METHODS
from ..prompts.prompt import LinearHead, Provenance, SoftPrompt
from ..prompts.tuned import TunedWeights
from ..prompts.tuned_options import check_options
from ..store import (
    MANIFEST,
    json_bytes,
    read_folder,
    read_json,
    read_provenance,
    read_tensors,
    tensor_bytes,
    write_folder,
)
from .kinds import restored
from .peft_layers import ia3_config, lora_config
from .prefix import FROZEN, NAME, sizes

if TYPE_CHECKING:
    from peft import PeftConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What PEFT has no place for and does not read: where the weights come from and how they answer, and a linear head.
DOCUMENT, HEAD, FORMAT = "softprompt.json", "head.safetensors", 1
# What PEFT puts before the names of a model's modules in its own files.
PREFIX = "base_model.model."


def _lora(tuned: TunedWeights, backbone: AbstractBackbone) -> "PeftConfig":
    config = lora_config(tuned.options)
    config.target_modules = sorted({name.rpartition(".lora_")[0] for name in tuned.weights})
    return config


def _ia3(tuned: TunedWeights, backbone: AbstractBackbone) -> "PeftConfig":
    config = ia3_config(tuned.options)
    config.target_modules = sorted(name.removesuffix(".ia3_l") for name in tuned.weights)
    # One factor for each input is a row, one for each output is a column.
    rows = (name for name, weight in tuned.weights.items() if weight.shape[0] == 1)
    config.feedforward_modules = sorted(name.removesuffix(".ia3_l") for name in rows)
    return config


def _prefix(tuned: TunedWeights, backbone: AbstractBackbone) -> "PeftConfig":
    from peft import CartridgeConfig, PrefixTuningConfig

    depth, heads, size = sizes(backbone)
    numbers = {"num_virtual_tokens": tuned.options["length"], "token_dim": heads * size, "num_attention_heads": heads}
    of_kind = {"encoder-decoder": ("SEQ_2_SEQ_LM", 2), "decoder": ("CAUSAL_LM", 1)}
    task_type, submodules = of_kind[backbone.kind]
    numbers |= {"num_layers": depth, "num_transformer_submodules": submodules}
    if tuned.kind == "cartridge":
        return CartridgeConfig(task_type=task_type, num_frozen_tokens=tuned.options["frozen"], **numbers)
    return PrefixTuningConfig(task_type=task_type, **numbers)


def _lora_options(config: Mapping[str, Any]) -> dict[str, Any]:
    targets = ",".join(_names(config.get("target_modules")))
    names = {"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
    return {"targets": targets, **{ours: config[theirs] for ours, theirs in names.items() if theirs in config}}


def _ia3_options(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "targets": ",".join(_names(config.get("target_modules"))),
        "feedforward": ",".join(_names(config.get("feedforward_modules"))),
    }


def _prefix_options(config: Mapping[str, Any]) -> dict[str, Any]:
    names = {"length": "num_virtual_tokens", "frozen": "num_frozen_tokens"}
    return {ours: config[theirs] for ours, theirs in names.items() if theirs in config}


# By kind of weights: PEFT's configuration of stored ones, and the options that a configuration of PEFT stands for.
WRITTEN_FOR_PEFT: Mapping[str, Callable[[TunedWeights, AbstractBackbone], "PeftConfig"]] = {
    "lora": _lora,
    "ia3": _ia3,
    "prefix-tuning": _prefix,
    "cartridge": _prefix,
}
READ_FROM_PEFT: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "LORA": ("lora", _lora_options),
    "IA3": ("ia3", _ia3_options),
    "PREFIX_TUNING": ("prefix-tuning", _prefix_options),
    "CARTRIDGE": ("cartridge", _prefix_options),
}
# Parts of PEFT's configurations that change what the layers compute, and that these methods do not have.
_UNKNOWN = (
    "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "layers_to_transform", "modules_to_save",
    "lora_bias", "exclude_modules", "target_parameters", "trainable_token_indices", "layer_replication",
    "alora_invocation_tokens", "use_qalora",
)  # fmt: skip
# Beginnings of a LoRA that leave the model's own weights as they are.
_LEAVES_THE_MODEL = (True, False, None, "gaussian", "eva", "orthogonal")


def save_peft(tuned: TunedWeights, folder: Path, backbone: AbstractBackbone) -> Path:
    """Write stored weights as a folder that `PeftModel.from_pretrained` reads, and what PEFT does not know beside them.

    Args:
        tuned: the weights, of a kind in `WRITTEN_FOR_PEFT`.
        folder: the new folder.
        backbone: their model.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    config: Any = WRITTEN_FOR_PEFT[tuned.kind](tuned, backbone)
    if hasattr(config, "fan_in_fan_out"):
        # GPT-2 keeps its weights as [in, out]. PEFT finds that out by itself and warns.
        modules = dict(backbone.model.named_modules())
        config.fan_in_fan_out = any(hasattr(modules[name], "nf") for name in config.target_modules)
    config.base_model_name_or_path = tuned.provenance.backbone.name
    config.inference_mode = True
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    contents = {
        CONFIG: json.dumps(values, indent=1, sort_keys=True).encode() + b"\n",
        WEIGHTS: tensor_bytes(_by_pefts_names(tuned.weights)),
        DOCUMENT: json_bytes({"format": FORMAT, "provenance": tuned.provenance.to_json()}),
    }
    if tuned.head is not None:
        contents[HEAD] = tensor_bytes({"weight": tuned.head.weight, "bias": tuned.head.bias})
    return write_folder(folder, contents, what=f"the folder of {tuned.kind!r} for PEFT")


def load_peft(folder: str | Path, backbone: AbstractBackbone) -> TunedWeights:
    """Return the weights in a folder that PEFT's `save_pretrained` wrote, or `save_peft` with what else it knew.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        backbone: the model that the weights were trained on.

    Raises:
        BadInput: no such folder, another kind of weights, or a configuration that these kinds do not have.
        DamagedFile: a file that `save_peft` wrote is not what was written.
        ModelMismatch: the weights do not belong to this model.
        UnsupportedModel: the model cannot have weights of this kind.
    """
    folder = Path(folder)
    config = _config(folder)
    peft_type = str(config.get("peft_type"))
    if peft_type not in READ_FROM_PEFT:
        kinds = ", ".join(READ_FROM_PEFT)
        raise BadInput(f"{str(folder)!r} holds weights of type {peft_type}, {kinds} can be read as weights")
    if strange := [name for name in _UNKNOWN if config.get(name)]:
        raise BadInput(f"{str(folder)!r} was trained with {strange[0]}={config[strange[0]]!r}, which cannot be read")
    if (start := config.get("init_lora_weights", True)) not in _LEAVES_THE_MODEL:
        raise BadInput(
            f"{str(folder)!r} began with init_lora_weights={start!r}, which changes the weights of the model itself; "
            "let PEFT save it as a plain LoRA (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if config.get("bias", "none") != "none":
        raise BadInput(f"{str(folder)!r} also trained biases (bias={config['bias']!r}), which cannot be read")
    kind, options_of = READ_FROM_PEFT[peft_type]
    # The defaults are PEFT's own.
    options = {**METHODS[kind].options, **options_of(config)}
    check_options(kind, options)
    provenance = provenance_of(folder) or Provenance(
        method=kind,
        backbone=backbone.identity(),
        answers=backbone.answers,
        training={"imported_from": f"PEFT {peft_type}"},
    )
    nothing = SoftPrompt(backbone.word_vectors[:0].detach().float().cpu(), provenance, head=_head(folder))
    if nothing.head is None and backbone.answers == "linear-head":
        raise BadInput(
            f"{backbone.name!r} answers by a linear head, which is not in {str(folder)!r}; of a run of softprompt take "
            "the folder `weights` beside it"
        )
    backbone.check(nothing)
    tuned = TunedWeights(nothing, kind, _by_our_names(folder, options.get("frozen", 0)), options)
    # Finds out whether they belong to the model.
    return dataclasses.replace(tuned, weights=restored(tuned, backbone).weights())


def provenance_of(folder: Path) -> Provenance | None:
    """What `save_peft` wrote of weights beside them; None in a folder that PEFT or an earlier version wrote.

    Raises:
        BadInput: a later version wrote it.
        DamagedFile: a file in it is not what was written.
    """
    if not (folder / MANIFEST).is_file() or not (folder / DOCUMENT).is_file():
        return None
    read_folder(folder)
    document = read_json(folder / DOCUMENT)
    if document.get("format") != FORMAT:
        raise BadInput(
            f"{str(folder)!r} is of format {document.get('format')!r}, this softprompt reads {FORMAT}; upgrade it"
        )
    return read_provenance(document.get("provenance"), str(folder))


def _head(folder: Path) -> LinearHead | None:
    """The linear head that `save_peft` wrote beside weights."""
    if not (folder / HEAD).is_file():
        return None
    tensors = read_tensors(folder / HEAD)
    try:
        return LinearHead(tensors["weight"], tensors["bias"])
    except KeyError as error:
        raise BadInput(
            f"{str(folder / HEAD)!r} holds no {error.args[0]} of a head; take the run's own folder"
        ) from error


def _config(folder: Path) -> dict[str, Any]:
    """Return the configuration in a folder of PEFT.

    Raises:
        BadInput: there is none, or its weights are missing or a pickle.
    """
    if not (folder / CONFIG).is_file():
        raise BadInput(f"{str(folder)!r} holds no {CONFIG}; give a folder written by PEFT's save_pretrained")
    if not (folder / WEIGHTS).is_file():
        raise BadInput(f"{str(folder)!r} holds no {WEIGHTS}; save it again with PEFT's save_pretrained")
    return read_json(folder / CONFIG)


def _by_pefts_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by PEFT's names: beside modules, or all positions of a prefix together."""
    if NAME in weights:
        return {NAME: torch.cat([weights[name] for name in (FROZEN, NAME) if name in weights])}
    return {PREFIX + name: weight for name, weight in weights.items()}


def _by_our_names(folder: Path, frozen: int) -> dict[str, Tensor]:
    """Return the weights in a folder of PEFT by our names."""
    weights = read_tensors(folder / WEIGHTS, is_bounded=False)
    if NAME in weights:
        numbers = weights[NAME]
        return {NAME: numbers[frozen:].clone(), **({FROZEN: numbers[:frozen].clone()} if frozen else {})}
    if odd := [name for name in weights if not name.startswith(PREFIX)]:
        raise ModelMismatch(f"{str(folder)!r} holds {odd[0]!r}, which is no weight beside a module; save it anew")
    return {name.removeprefix(PREFIX): weight for name, weight in weights.items()}


def _names(given: Any) -> list[str]:
    """Return PEFT's list of names; a single text is a regular expression there."""
    if isinstance(given, str):
        raise BadInput(f"target_modules={given!r} is a pattern; save it with PEFT's list of names")
    if not isinstance(given or [], list) or not all(isinstance(name, str) for name in given or []):
        raise BadInput(f"PEFT's names of modules are a list of texts, not {str(given)[:40]}; save it anew")
    return sorted(given or [])
