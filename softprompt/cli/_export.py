"""`softprompt export` and `softprompt compile`: write a stored prompt for other programs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import BadInput
from ._inputs import read_inputs
from .options import DataRoot, Model, NewFolder, Stored

Format = Literal["peft", "numpy", "npy", "baked", "cache", "embeds", "onnx", "gguf-recipe"]
# Formats that need no frozen model.
VECTORS = ("peft", "numpy", "npy")
Licence = Annotated[
    str, typer.Option("--license", help="Licence of the prompt in the README: an identifier of the hub, such as mit.")
]


def export(
    prompt: Stored,
    *,
    output: NewFolder,
    format: Annotated[
        Format,
        typer.Option(
            help="Format: peft: a stock PEFT folder. numpy, or npy: the vectors alone, a .npy file. baked: "
            "a model with the "
            "prompt inside. cache: keys and values (as compile). embeds: requests for vLLM. onnx: one graph. "
            "gguf-recipe: vectors and a script for llama.cpp."
        ),
    ] = "peft",
    model: Model = None,
    license: Licence = "other",
) -> None:
    """Write a prompt for other tools, which load it without our code."""
    from ..prompts.prompt import SoftPrompt

    stored = SoftPrompt.load(prompt)
    if format not in VECTORS:
        print(_writer(format)(stored, output, **_described(stored, prompt, model, license)))
        return
    if model is not None or (format != "peft" and license != "other"):
        raise BadInput(f"--format={format} holds vectors alone, so it takes no --model, and only peft takes --license")
    if format == "peft":
        from ..interop.peft import export_peft

        described = _described(stored, prompt, model, license)
        del described["model"]
        print(export_peft(stored, output, **described))
    else:
        from ..interop.numpy import export_numpy

        print(export_numpy(stored, output))


def compile_(
    prompt: Stored,
    *,
    output: NewFolder,
    model: Model = None,
    license: Licence = "other",
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0, help="Of a T5's prompt: the largest error of a probability that is allowed. Default: 0.01."
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Of a T5's prompt: texts or rows to measure the error on. Default: 64 validation rows."),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Compute the part of a prompt that no text changes once, for stock `generate`: a decoder's keys and values.

    A T5's prompt has such a part only if its norm is large. The error of this limit is measured, and a prompt whose
    error is above --tolerance is refused.
    """
    from ..prompts.prompt import SoftPrompt

    stored = SoftPrompt.load(prompt)
    described = _described(stored, prompt, model, license)
    if stored.provenance.backbone.kind != "encoder-decoder":
        if tolerance is not None or calibration is not None:
            raise BadInput("a compiled prompt of a decoder has no error; leave --tolerance and --calibration out")
        from ..export import export_cache

        print(export_cache(stored, output, **described))
        return
    from ..export import export_limit

    rows = None if calibration is None else [row.given for row in read_inputs([], calibration)]
    tolerance = 0.01 if tolerance is None else tolerance
    print(export_limit(stored, output, calibration=rows, data_root=data_root, tolerance=tolerance, **described))


def _writer(format: str) -> Any:
    from .. import export as formats

    return {
        "baked": formats.export_baked,
        "cache": formats.export_cache,
        "embeds": formats.export_embeds,
        "onnx": formats.export_onnx,
        "gguf-recipe": formats.export_gguf_recipe,
    }[format]


def _described(stored: Any, source: str, model: str | None, licence: str) -> dict[str, Any]:
    from ..export import spread_of

    return {"model": model, "licence": licence, "spread": spread_of(stored, source)}
