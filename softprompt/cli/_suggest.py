"""Suggestions for an option that does not exist."""

import difflib
from collections.abc import Collection
from typing import Any

from typer.exceptions import TyperException

# Earlier names of our options, and the names that other tools use.
OTHER_NAMES = {
    "backbone": "model",
    "base-model": "model",
    "dataset": "data",
    "early-stopping": "patience",
    "early-stopping-patience": "patience",
    "eval-steps": "eval-every",
    "frozen": "quantize",
    "gpu": "device",
    "grad-clip": "clip",
    "gradient-accumulation-steps": "grad-accumulation",
    "k-shot": "shots",
    "lane": "prompt",
    "lanes": "fleet-size",
    "learning-rate": "lr",
    "learning-rates": "lr",
    "max-grad-norm": "clip",
    "max-seq-length": "max-length",
    "max-steps": "steps",
    "model-name": "model",
    "model-name-or-path": "model",
    "norm-guard": "max-norm",
    "num-epochs": "epochs",
    "num-shots": "shots",
    "num-steps": "steps",
    "num-tokens": "prompt-length",
    "num-train-epochs": "epochs",
    "num-virtual-tokens": "prompt-length",
    "out": "output",
    "out-dir": "output",
    "output-dir": "output",
    "peft-type": "method",
    "per-device-train-batch-size": "batch-size",
    "precision": "dtype",
    "random-seed": "seed",
    "test-file": "test-data",
    "tokens": "prompt-length",
    "train-batch-size": "batch-size",
    "train-data": "data",
    "train-file": "data",
    "validation-file": "validation-data",
    "warmup-steps": "warmup",
}


def meant(name: str, options: Collection[str]) -> str | None:
    """The option that a name stands for: another tool's name of it, or the nearest; None if there is none.

    Args:
        name: with its dashes, as it was typed.
        options: those of the command.
    """
    plain = name.lstrip("-").replace("_", "-").lower()
    other = f"--{OTHER_NAMES.get(plain, plain)}"
    if other in options:
        return other
    close = difflib.get_close_matches(other, options, n=1, cutoff=0.7)
    return close[0] if close else None


def explained(error: TyperException) -> str:
    """The one-line message of an error with a command's options; an unknown one beside the one that was meant."""
    unknown: Any = error
    name, context = getattr(unknown, "option_name", None), getattr(unknown, "ctx", None)
    if name is None or context is None or not hasattr(unknown, "possibilities"):
        return error.format_message()
    options = [option for parameter in context.command.params for option in parameter.opts if option.startswith("--")]
    guess = meant(name, options)
    hint = f"Did you mean {guess}?" if guess else f"See `{context.command_path} --help`."
    return f"No such option: {name}. {hint}"
