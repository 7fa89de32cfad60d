"""The options beside stored weights: checked before anything is built by them, as a stranger may have written them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import BadInput, UnknownName, pick
from .method_table import WEIGHTS

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {values["weights"]: values.get("options", {}) for values in WEIGHTS}
# What an option may be by the type of its default. PEFT's alpha may be a fraction.
_KINDS: Mapping[type, tuple[type, ...]] = {bool: (bool,), str: (str,), int: (int,), float: (int, float)}
_FRACTIONS = ("alpha",)
# Options that earlier versions did not store.
_LATER = ("add_missing", "begins")
# By kind: options that are a size of stored weights, the end of the names of these, and the dimension.
_SIZES: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "lora": {"r": (".lora_A.weight", 0)},
    "adapter": {"bottleneck": (".adapter.down.bias", 0)},
    "adapter-drop": {"bottleneck": (".adapter.down.bias", 0)},
    "prefix-tuning": {"length": ("prompt_embeddings", 0)},
    "cartridge": {"length": ("prompt_embeddings", 0), "frozen": ("frozen_embeddings", 0)},
    "dept": {"length": ("prompt", 0), "rank": ("b", 0), "positions": ("a", 0)},
    "attempt": {"length": ("target", 0), "bottleneck": ("down.weight", 0)},
    "mpt": {"length": ("prompt", 0), "rank": ("rows", 1)},
}


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Refuse options that are missing, unknown or of another type than the method's own.

    Args:
        kind: what the weights are, a name in `baselines.BASELINES`.
        options: as they were stored.

    Raises:
        UnknownName: there is no such kind or option.
        BadInput: names the option.
    """
    defaults = pick("kind of weights", kind, _DEFAULTS)
    for name in options:
        if name not in defaults:
            raise UnknownName("option of the stored weights", name, defaults)
    for name, default in defaults.items():
        value = options.get(name, default if name in _LATER else None)
        if type(value) not in _KINDS[float if name in _FRACTIONS else type(default)]:
            given = "is missing" if value is None else f"is {str(value)[:40]!r}"
            raise BadInput(
                f"the option {name!r} of the stored weights {given}, in {kind!r} it is like {default!r}; fetch them "
                "again"
            )


def check_sizes(kind: str, options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Refuse options that are other sizes than those of the weights: memory is allocated by them.

    Args:
        kind: as in `check_options`.
        options: which passed it.
        weights: by their names.

    Raises:
        BadInput: names the option and the weight.
    """
    for option, (end, dimension) in _SIZES.get(kind, {}).items():
        # A cartridge's frozen positions are counted in its length, and stored apart.
        size = options[option] - (options.get("frozen", 0) if option == "length" else 0)
        shapes = {name: tuple(weight.shape) for name, weight in weights.items() if name.endswith(end)}
        fits = (len(shape) > dimension and shape[dimension] == size for shape in shapes.values())
        if not all(fits) or (size and not shapes):
            held = ", ".join(f"{name!r} of shape {shape}" for name, shape in list(shapes.items())[:1])
            raise BadInput(
                f"the stored weights of {kind!r} say {option}={options[option]} and hold {held or 'none'}; fetch them "
                "again"
            )
