"""`python -m experiments.pretraining NAME`: make a built-in backbone again from its seed."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from softprompt.builtin import BUILT_IN
from softprompt.cli import run_app
from softprompt.cli.options import Quiet

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
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
    from .pretrain import pretrain as make

    result = make(name, output or Path("runs") / f"pretrain-{name}", progress=not quiet)
    if install:
        from .weights import install_backbone

        result = install_backbone(name, result)
    print(result)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    return run_app(app, "python -m experiments.pretraining", arguments)


if __name__ == "__main__":
    sys.exit(main())
