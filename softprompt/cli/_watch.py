"""`softprompt watch` and `softprompt board`: runs and studies while they are trained."""

from pathlib import Path
from typing import Annotated

import typer

from .printing import say

Folder = Annotated[
    Path, typer.Argument(metavar="RUN|STUDY", help="Folder of a run, store of a study, or a folder of these.")
]


def watch(
    folder: Folder,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two frames.")] = 2.0,
) -> None:
    """Show curves, scores, the best so far and the time left of runs in training, also of other processes.

    It only reads. It ends when no run is in training.
    """
    from rich.console import Console

    from ..live import follow

    follow(folder, Console(highlight=False), once=once, every=every)


def board(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of runs and stores.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 8010,
) -> None:
    """Serve a page on this machine that lists runs, compares curves, and follows runs in training (extra `board`).

    It only reads, and answers this machine alone.
    """
    from ..live.board import serve

    serve(folder, port, tell=lambda address: say(f"softprompt: {address} (Ctrl-C ends it)"))
