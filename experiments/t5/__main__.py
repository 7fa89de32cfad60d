"""`python -m experiments.t5`: what a T5 of yours says of the default methods."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from softprompt.cli import run_app
from softprompt.cli.options import DataRoot, Device, Json, Quiet
from softprompt.cli.printing import print_json, say

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def real_t5(
    *,
    check: Annotated[
        Path, typer.Option(metavar="FOLDER", help="A T5 with its tokenizer, as save_pretrained wrote it.")
    ],
    data_root: DataRoot = None,
    minutes: Annotated[float, typer.Option(min=0.0, help="About how long; what has begun is finished.")] = 30.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps. Default: as many as the minutes allow, 250 at most.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="At most so many seeds.")] = 5,
    store: Annotated[Path | None, typer.Option(help="Folder of the runs. Default: runs/real-t5-NAME.")] = None,
    device: Device = "auto",
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train scaled, ept-star and prompt-tuning on SST-2 and RTE with a T5 of yours, and print what that decides.

    Each at its default learning rate, seed by seed until the minutes are over. It may be killed at any time, and goes
    on with the same command; with more minutes it adds seeds.
    """
    from . import check as study

    folder = store or Path("runs") / f"real-t5-{check.resolve().name}"
    decision = study.check(
        check, folder, data_root=data_root, minutes=minutes, steps=steps, seeds=seeds, device=device, progress=not quiet
    )
    if json_lines:
        print_json(decision.to_json())
    else:
        print(study.text(decision))
    say(f"runs in {folder}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    return run_app(app, "python -m experiments.t5", arguments)


if __name__ == "__main__":
    sys.exit(main())
