"""`softprompt import`: store a prompt of another tool."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import BadInput
from .options import NewFolder


def import_(
    source: Annotated[Path, typer.Argument(metavar="PATH", help="PEFT folder, or .npy file of prompt vectors.")],
    *,
    output: NewFolder,
    model: Annotated[
        str | None, typer.Option(help="Frozen model that a .npy prompt belongs to: hub id or folder.")
    ] = None,
    kind: Annotated[
        Literal["encoder-decoder", "encoder", "decoder"], typer.Option(help="Kind of that model.")
    ] = "encoder-decoder",
) -> None:
    """Store a prompt from a PEFT folder or a numpy file, so that it can be evaluated and used to predict."""
    if not source.exists():
        raise BadInput(f"{source} does not exist; give a PEFT folder or a .npy file")
    if source.is_dir():
        from ..interop.peft import import_peft

        prompt = import_peft(source)
    else:
        if model is None:
            raise BadInput(f"{source} does not say which model it belongs to; name it with --model")
        from ..interop.numpy import import_numpy

        prompt = import_numpy(source, backbone_name=model, kind=kind)
    print(prompt.save(output))
