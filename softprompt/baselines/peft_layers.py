"""LoRA and (IA)3 by PEFT: layers that stand around linear layers of the model.

LoRA is W x + (alpha / r) B A dropout(x) (Hu et al., 2021, arXiv:2106.09685). (IA)3 multiplies keys and values, and what
a feed-forward layer reads, by a trained vector (Liu et al., 2022, arXiv:2205.05638). PEFT builds the layers, so that
targets, shapes, initial values and the forward pass are its own.
"""

import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import nn

from ..backbones import AbstractBackbone
from ..errors import BadInput, UnsupportedModel
from ..prompts.seeds import seeded
from .swap import Place, Start, Swap

if TYPE_CHECKING:
    from peft import IA3Config, LoraConfig, PeftConfig

ADAPTER = "default"


def has_peft() -> bool:
    """Whether PEFT is installed."""
    return find_spec("peft") is not None


def require_peft(kind: str) -> None:
    """Refuse weights that PEFT builds where it is not installed.

    Raises:
        BadInput: with what to install.
    """
    if not has_peft():
        raise BadInput(f"{kind!r} is built by PEFT, which is not installed; pip install 'softprompt[peft]'")


def lora(backbone: AbstractBackbone, options: Mapping[str, Any], start: Start) -> Swap:
    """Return new LoRA matrices for a model, beside the layers that PEFT chooses for its type or that are named.

    Args:
        backbone: the model, which stays as it is.
        options: `r`, `alpha`, `dropout`, and `targets`, names of modules joined by commas; empty for PEFT's choice.
        start: its seed gives the initial matrices A; the matrices B begin at zero.

    Raises:
        BadInput: a rank, a scale or a dropout that cannot be, targets that the model does not have, or no PEFT.
        UnsupportedModel: PEFT knows no targets for models of this type, or the model has adapters already.
    """
    require_peft("lora")
    placed = _injected(backbone, lora_config(options), start.seed, "a LoRA")
    trained = {
        f"{path}.{matrix}.weight": getattr(place.trained, matrix)[ADAPTER].weight
        for path, place in placed
        for matrix in ("lora_A", "lora_B")
    }
    noise = [place.trained.lora_dropout for _, place in placed]
    return Swap(trained, [place for _, place in placed], noise)


def ia3(backbone: AbstractBackbone, options: Mapping[str, Any], start: Start) -> Swap:
    """Return new (IA)3 vectors for a model, which begin at 1.

    Args:
        backbone: the model, which stays as it is.
        options: `targets`, and among them `feedforward`, whose input is scaled and not their output: names of modules
            joined by commas; empty for PEFT's choice.
        start: nothing of it is read.

    Raises:
        BadInput: targets that the model does not have, feed-forward modules that are no targets, or no PEFT.
        UnsupportedModel: PEFT knows no targets for models of this type, or the model has adapters already.
    """
    require_peft("ia3")
    placed = _injected(backbone, ia3_config(options), start.seed, "(IA)3")
    trained = {f"{path}.ia3_l": place.trained.ia3_l[ADAPTER] for path, place in placed}
    return Swap(trained, [place for _, place in placed])


def lora_config(options: Mapping[str, Any]) -> "LoraConfig":
    """Return PEFT's configuration of a LoRA with these options.

    Raises:
        BadInput: a rank, a scale or a dropout that cannot be.
    """
    from peft import LoraConfig

    r, alpha, dropout = options["r"], options["alpha"], options["dropout"]
    if r < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise BadInput(
            f"a LoRA needs r of at least 1, alpha above 0 and a dropout from 0 to below 1, not r={r}, alpha={alpha:g}, "
            f"dropout={dropout:g}"
        )
    return LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=names_in(options["targets"]))


def ia3_config(options: Mapping[str, Any]) -> "IA3Config":
    """Return PEFT's configuration of (IA)3 with these options.

    Raises:
        BadInput: feed-forward modules without targets, or that are not among them.
    """
    from peft import IA3Config

    targets, feedforward = names_in(options["targets"]), names_in(options["feedforward"])
    if not set(feedforward or ()) <= set(targets or ()):
        raise BadInput(
            "(IA)3 needs each of --method-option feedforward= among targets=, where both are given: "
            f"targets={options['targets']}, feedforward={options['feedforward']}"
        )
    # With targets of the user, PEFT would still take its own list of feed-forward modules.
    return IA3Config(target_modules=targets, feedforward_modules=(feedforward or []) if targets else None)


def names_in(text: str) -> list[str] | None:
    """Return the names that commas separate, or None if there are none."""
    return [name for name in text.split(",") if name] or None


def _injected(backbone: AbstractBackbone, config: "PeftConfig", seed: int, what: str) -> list[tuple[str, Place]]:
    """Return PEFT's layers with their paths and places. They are built in the model and taken out again."""
    model = backbone.model
    if any(True for _ in _places(model)):
        raise UnsupportedModel(f"{backbone.name!r} has adapters of PEFT already; merge them (merge_and_unload) first")
    before = set(vars(model))
    try:
        with seeded(seed, backbone.device):
            _inject(backbone, config, what)
        places = list(_places(model))
    finally:
        for place in _places(model):
            setattr(place.owner, place.attribute, place.original)
        for name in set(vars(model)) - before:
            delattr(model, name)
    layers = {id(place.original): place for place in places}
    return [(path, layers[id(module)]) for path, module in model.named_modules() if id(module) in layers]


def _inject(backbone: AbstractBackbone, config: Any, what: str) -> None:
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
                f"PEFT knows no layers of {name!r} ({kind}) for {what}; give --method-option targets=NAME,NAME"
            ) from error
        raise BadInput(
            f"{name!r} ({kind}) has no linear layers {', '.join(sorted(config.target_modules))} for {what}; "
            "give --method-option targets= with names of its modules"
        ) from error


def _places(model: nn.Module) -> Iterator[Place]:
    """Yield the places in which PEFT's layers stand now."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for owner in list(model.modules()):
        for attribute, layer in owner.named_children():
            if isinstance(layer, BaseTunerLayer):
                yield Place(owner, attribute, layer.get_base_layer(), layer)
