"""`softprompt lab`: the backbones that softprompt brings."""

from pathlib import Path
from typing import Annotated

import typer

from ..lab.backbones import BUILT_IN

lab = typer.Typer(help="The laboratory: small trained backbones, built in.", no_args_is_help=True)


@lab.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BUILT_IN)}.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
) -> None:
    """Write a built-in backbone into a folder, for `from_pretrained` and other tools."""
    from ..lab.backbones import copy_backbone

    print(copy_backbone(name, folder))
