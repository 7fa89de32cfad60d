"""`softprompt lab`: the backbones that softprompt brings."""

from pathlib import Path
from typing import Annotated

import typer

from ..lab.backbones import BUILT_IN

lab = typer.Typer(help="The laboratory: small trained backbones, built in.", no_args_is_help=True)


@lab.command("pretrain")
def pretrain(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BUILT_IN)}.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option(help="Working folder; an interrupted one is gone on with. Default: runs/pretrain-NAME."),
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Put the result in the place of the backbone that softprompt brings.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Make a built-in backbone again from its seed: 20 to 60 minutes on two cores. Prints the backbone's folder."""
    from ..lab.pretrain import pretrain as make

    result = make(name, output or Path("runs") / f"pretrain-{name}", progress=not quiet)
    if install:
        from ..lab.backbones import install_backbone

        result = install_backbone(name, result)
    print(result)


@lab.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BUILT_IN)}.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
) -> None:
    """Write a built-in backbone into a folder, for `from_pretrained` and other tools."""
    from ..lab.backbones import copy_backbone

    print(copy_backbone(name, folder))
