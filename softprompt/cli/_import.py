"""`softprompt import`: store a prompt, or trained weights, of another tool."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import NewFolder


def import_(
    source: Annotated[Path, typer.Argument(metavar="PATH", help="PEFT folder, or .npy file of prompt vectors.")],
    *,
    output: NewFolder,
    model: Annotated[
        str | None,
        typer.Option(help="Frozen model of a .npy prompt or of trained weights: hub id or folder."),
    ] = None,
    kind: Annotated[
        Literal["encoder-decoder", "encoder", "decoder"] | None,
        typer.Option(
            help="Kind of the model, where neither a PEFT folder nor a model that is here says it. Default for .npy: "
            "encoder-decoder."
        ),
    ] = None,
) -> None:
    """Store a prompt from a PEFT folder or a numpy file, for `evaluate` and `predict`.

    Of PEFT's trained weights, LoRA and (IA)3 can be read; their model is loaded.
    """
    from ..interop.importing import import_stored
    from ..interop.stored import save

    print(save(import_stored(source, model, kind), output))
