"""`softprompt lab`: the backbones that softprompt brings, and a masked-LM head for an encoder without one."""

from pathlib import Path
from typing import Annotated

import typer

from ..builtin import BUILT_IN
from ..errors import BadInput
from .options import DataRoot, Device, NewFolder, Quiet
from .printing import say

lab = typer.Typer(help="Write a built-in model for other tools, or train a masked-LM head.", no_args_is_help=True)
# Commands that moved to `experiments/` with their studies, and the commands that replace them in a checkout.
MOVED = {
    "confirm": "experiments.which_method",
    "claims": "experiments.claims",
    "real-t5": "experiments.t5",
    "pretrain": "experiments.pretraining",
}


def _moved(name: str, module: str) -> None:
    @lab.command(name, hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def command() -> None:
        raise BadInput(f"`softprompt lab {name}` has left the package; in a checkout run `python -m {module}`")


for _name, _module in MOVED.items():
    _moved(_name, _module)


@lab.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BUILT_IN)}.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write. It must not exist.")],
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
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps. Default: 2000.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, texts and masks.")] = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a masked-LM head for an encoder that came without one, on the training texts of the known tasks.

    The encoder stays frozen. Prints the folder; masked accuracy on held-out texts goes to standard error.
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
