"""`softprompt export` and `softprompt compile`: write a stored prompt for other programs."""

from typing import Annotated, Any, Literal

import typer

from ..errors import BadInput
from .options import Model, NewFolder, Stored

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
    if model is not None or license != "other":
        raise BadInput(f"--format={format} holds vectors alone and takes neither --model nor --license")
    if format == "peft":
        from ..interop.peft import export_peft

        print(export_peft(stored, output))
    else:
        from ..interop.numpy import export_numpy

        print(export_numpy(stored, output))


def compile_(prompt: Stored, *, output: NewFolder, model: Model = None, license: Licence = "other") -> None:
    """Compute a decoder's keys and values of prompt and instruction once, as a cache for stock `generate`."""
    from ..export import export_cache
    from ..prompts.prompt import SoftPrompt

    stored = SoftPrompt.load(prompt)
    print(export_cache(stored, output, **_described(stored, prompt, model, license)))


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
