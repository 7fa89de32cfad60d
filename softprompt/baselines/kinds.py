"""The kinds of trained weights by their names, and how stored ones are put to work."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..backbones import AbstractBackbone, in_float32, turn
from ..errors import UnsupportedModel, pick
from ..prompts.prompt import SoftPrompt
from ..prompts.tuned import Stored, TunedWeights
from . import prefix
from .adapter import adapter, adapter_drop
from .bitfit import bitfit
from .full import full
from .peft_layers import ia3, lora
from .prefix import cartridge, prefix_tuning
from .rows import attempt, dept, restored_attempt
from .shared import mpt
from .swap import Start, Swap

log = logging.getLogger("softprompt")

# Each takes the backbone, the options of the method and what its numbers begin with.
Build = Callable[[AbstractBackbone, Mapping[str, Any], Start], Swap]
BASELINES: Mapping[str, Build] = {
    "full": lambda backbone, options, start: full(backbone),
    "bitfit": bitfit,
    "adapter": adapter,
    "adapter-drop": adapter_drop,
    "lora": lora,
    "ia3": ia3,
    "prefix-tuning": prefix_tuning,
    "cartridge": cartridge,
    "attempt": attempt,
    "dept": dept,
    "mpt": mpt,
}
# Those whose sizes, once stored, do not follow from the options, or which begin at what is not at hand any more.
Restore = Callable[[AbstractBackbone, Mapping[str, Any], Mapping[str, Tensor]], Swap]
RESTORED: Mapping[str, Restore] = {
    "prefix-tuning": prefix.restored,
    "cartridge": prefix.restored,
    "attempt": restored_attempt,
}


def is_random(kind: str, options: Mapping[str, Any]) -> bool:
    """Whether the numbers with which weights of this kind begin depend on the seed.

    Args:
        kind: a name in `BASELINES`.
        options: of the method.
    """
    # What "mpt" begins with is learned from the source tasks; the others begin as the model does.
    return kind not in ("full", "bitfit", "ia3", "mpt") and not (kind == "cartridge" and options["text"])


def swap_for(kind: str, backbone: AbstractBackbone, options: Mapping[str, Any], start: Start | None = None) -> Swap:
    """Return what a method of this kind trains in a model, as it is at the start.

    Args:
        kind: a name in `BASELINES`.
        backbone: the model, which stays as it is.
        options: the options of the method.
        start: what the initial numbers come from.

    Raises:
        UnsupportedModel: quantised or half-precision weights, or a model that lacks what this kind trains.
    """
    build = pick("kind of weights", kind, BASELINES)
    refuse_no_weights(kind, backbone)
    # Not while other weights stand in the model, which would be taken for its own.
    with turn(backbone.model):
        return build(backbone, options, start or Start())


def restored(stored: TunedWeights, backbone: AbstractBackbone) -> Swap:
    """Return stored weights as they are put into their model.

    Raises:
        ModelMismatch: the weights of another model.
        UnsupportedModel: the model cannot have these weights.
    """
    if stored.kind in RESTORED:
        refuse_no_weights(stored.kind, backbone)
        with turn(backbone.model):
            swap = RESTORED[stored.kind](backbone, stored.options, stored.weights)
    else:
        swap = swap_for(stored.kind, backbone, stored.options)
    swap.load(stored.weights, backbone.name)
    return swap


def refuse_no_weights(kind: str, backbone: AbstractBackbone) -> None:
    """Refuse a model whose weights cannot be trained.

    Raises:
        UnsupportedModel: the weights are quantised, or in a precision in which small updates are lost.
    """
    if backbone.quantize is not None or getattr(backbone.model.config, "quantization_config", None) is not None:
        raise UnsupportedModel(
            f"{kind!r} trains the weights of {backbone.name!r}, which are quantised; load the model unquantised"
        )
    if backbone.dtype not in (torch.float32, torch.float64):
        raise UnsupportedModel(
            f"{kind!r} trains weights, and in {str(backbone.dtype).removeprefix('torch.')} small updates are lost; "
            f"load {backbone.name!r} with --dtype=float32"
        )


def count(kind: str, backbone: AbstractBackbone, options: Mapping[str, Any]) -> int:
    """Count the parameters that a method of this kind trains in a model, without a linear head.

    Raises:
        UnsupportedModel: the model cannot have these weights.
    """
    return swap_for(kind, backbone, options).count


def check(stored: Stored, backbone: AbstractBackbone) -> None:
    """Refuse what was trained for another model.

    Raises:
        ModelMismatch: with both names.
        UnsupportedModel: the weights of the model are quantised, or in half precision.
    """
    if isinstance(stored, SoftPrompt):
        return backbone.check(stored)
    refuse_no_weights(stored.kind, backbone)
    backbone.check(stored.prompt)


@contextlib.contextmanager
def reference_passes(backbone: AbstractBackbone) -> Iterator[None]:
    """Inside the `with` block, transformers computes the passes: other engines keep copies of the frozen weights.

    The model is this thread's alone until then.
    """
    with turn(backbone.model):
        engine = backbone.engine
        backbone.engine = "reference"
        try:
            yield
        finally:
            backbone.engine = engine


@contextlib.contextmanager
def answering(stored: Stored, backbone: AbstractBackbone) -> Iterator[SoftPrompt]:
    """Inside the `with` block, the model answers as what is stored trained it; yields what stands before the rows.

    Raises:
        ModelMismatch: stored weights of another model.
        UnsupportedModel: the model cannot have these weights.
    """
    if isinstance(stored, SoftPrompt):
        yield stored
        return
    with in_float32():
        swap = restored(stored, backbone).requires_grad_(False).eval()
    with reference_passes(backbone), swap.applied():
        yield stored.prompt
