"""`softprompt lab`: the backbones that softprompt brings."""

from pathlib import Path
from typing import Annotated

import typer
from experiments.claims.__main__ import claims, real_t5
from experiments.which_method.__main__ import confirm

from ..builtin import BUILT_IN
from ..errors import BadInput
from .options import DataRoot, Device, NewFolder, Quiet
from .printing import say

lab = typer.Typer(help="The laboratory: small trained backbones, built in, and studies on them.", no_args_is_help=True)
lab.command("confirm")(confirm)
lab.command("claims")(claims)
lab.command("real-t5")(real_t5)


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
    quiet: Quiet = False,
) -> None:
    """Make a built-in backbone again from its seed: 20 to 60 minutes on two cores. Prints the backbone's folder."""
    from experiments.pretraining.pretrain import pretrain as make

    result = make(name, output or Path("runs") / f"pretrain-{name}", progress=not quiet)
    if install:
        from ..builtin import install_backbone

        result = install_backbone(name, result)
    print(result)


@lab.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BUILT_IN)}.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
) -> None:
    """Write a built-in backbone into a folder, for `from_pretrained` and other tools."""
    from ..builtin import copy_backbone

    print(copy_backbone(name, folder))


@lab.command("mlm-head")
def mlm_head(
    model: Annotated[str, typer.Argument(help="Encoder without a masked-LM head: folder or hub id.")],
    *,
    output: NewFolder,
    data_root: DataRoot = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps. Default: the recipe's, 2000.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, texts and masks.")] = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a masked-LM head for an encoder that came without one, on the training texts of the known tasks.

    The encoder stays as it is. Prints the folder; masked accuracy on held-out texts goes to standard error.
    """
    if data_root is None:
        raise BadInput("no texts; give --data-root, a folder with rows of the known tasks")
    from ..lab.mlm_head import fit_mlm_head

    fitted = fit_mlm_head(model, output, data_root=data_root, steps=steps, seed=seed, device=device, progress=not quiet)
    say(
        f"masked accuracy on {fitted.held_out:,} held-out texts: {fitted.before:.3f} before, {fitted.after:.3f} after; "
        f"always the most frequent token: {fitted.frequent:.3f}"
    )
    print(fitted.folder)
