"""`softprompt export`: write a stored prompt in a format of other tools."""

from typing import Annotated, Literal

import typer

from .options import NewFolder, Stored


def export(
    prompt: Stored,
    *,
    output: NewFolder,
    format: Annotated[
        Literal["peft", "numpy", "npy"],
        typer.Option(help="peft: a stock PEFT folder. numpy, or npy: the vectors alone, a .npy file."),
    ] = "peft",
) -> None:
    """Write a prompt for other tools: a folder that PEFT loads without our code, or a numpy file."""
    from ..prompts.prompt import SoftPrompt

    stored = SoftPrompt.load(prompt)
    if format == "peft":
        from ..interop.peft import export_peft

        print(export_peft(stored, output))
    else:
        from ..interop.numpy import export_numpy

        print(export_numpy(stored, output))
