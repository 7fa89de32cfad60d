"""`python -m experiments.real_lm`: the papers' questions, asked of a real language model."""

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from softprompt.cli import run_app
from softprompt.errors import SoftPromptError

from ..common.places import RESULTS
from .results import Folder, unbundle

HERE = RESULTS / "real_lm"
ResultsFolder = Annotated[Path, typer.Option("--results", help="One JSON file a piece of the study.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    *,
    model: Annotated[str, typer.Option(help="Folder or name of the frozen model.")],
    data_root: Annotated[Path, typer.Option(help="Folder with the rows (docs/tasks.md).")],
    results: Annotated[Path | None, typer.Option(help="One JSON file a piece of the study.")] = None,
    work: Annotated[Path, typer.Option(help="Rows and unfinished runs.")] = Path("runs/real-lm"),
    bundle_file: Annotated[
        Path | None, typer.Option("--bundle", help="All results in one file, written anew after each piece.")
    ] = None,
    fleet: Annotated[int, typer.Option(min=1, help="Most prompts in a piece.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the pieces on one device.")] = 1,
    minutes: Annotated[float, typer.Option(help="After which no piece is begun.")] = math.inf,
    memory_share: Annotated[float, typer.Option(help="Of a GPU's memory, for this process.")] = 1.0,
    tf32: Annotated[bool, typer.Option("--tf32", help="A GPU multiplies float32 in TF32.")] = False,
    small: Annotated[bool, typer.Option("--small", help="The small form, at the methods' default rates.")] = False,
    small_rates: Annotated[
        bool, typer.Option("--small-rates", help="The small form's default rates beside others, on other tasks.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Four steps of a few pieces: a try of the whole way.")] = False,
) -> None:
    """Choose rates, score the frozen model, and train the pieces that have no results yet.

    It may be stopped and started again, also by several processes: finished pieces are kept, and one that was begun
    goes on.
    """
    if workers > 1:
        return _supervise(workers)
    from .page import small_of
    from .study import run_study

    left = run_study(
        Folder(results or (small_of(HERE) if small or small_rates else HERE), work),
        model=model,
        data_root=data_root,
        bundle_file=bundle_file,
        fleet=fleet,
        until=time.monotonic() + 60 * minutes,
        memory_share=memory_share,
        tf32=tf32,
        quick=quick,
        small=small,
        small_rates=small_rates,
    )
    print(f"{left} pieces are left", flush=True)


def _supervise(workers: int) -> None:
    """The same command in several processes."""
    command = [sys.executable, "-m", "experiments.real_lm", *sys.argv[1:], "--workers", "1"]
    command += ["--memory-share", f"{0.95 / workers:.3f}"]
    processes = [subprocess.Popen(command) for _ in range(workers)]
    if failed := sum(process.wait() != 0 for process in processes):
        raise SoftPromptError(f"{failed} of {workers} processes failed; the same command goes on")


@app.command()
def page(*, results: ResultsFolder = HERE) -> None:
    """Write the tables of docs/results/real-lm.md from the results."""
    from .page import PAGE, make_page

    make_page(results)
    print(PAGE)


@app.command()
def landscapes(
    *,
    model: Annotated[str, typer.Option(help="Folder or name of the frozen model.")],
    data_root: Annotated[Path, typer.Option(help="Folder with the rows (docs/tasks.md).")],
    work: Annotated[Path, typer.Option(help="Rows and runs.")] = Path("runs/real-lm"),
    result: Annotated[Path, typer.Option(help="File of the numbers.")] = RESULTS / "real_lm_landscapes.json",
) -> None:
    """Measure the landscapes of few-shot prompts with and without PTP's random noise."""
    from .landscapes import measure_landscapes, table

    print(table(measure_landscapes(model, data_root, work, result)))


@app.command()
def collect(
    file: Annotated[Path, typer.Argument(help="What --bundle wrote.")], *, results: ResultsFolder = HERE
) -> None:
    """Put results that another machine bundled into the folder."""
    print(f"{unbundle(file, results)} files in {results}")


@app.command()
def carry(
    folder: Annotated[Path, typer.Argument(help="Made anew; ignored by git.")],
    *,
    data_root: Annotated[Path, typer.Option(help="Folder with the rows.")],
    model: Annotated[Path, typer.Option(help="The model's GGUF file.")],
    wheels: Annotated[Path | None, typer.Option(help="Folder of packages that the machine lacks.")] = None,
    part: Annotated[
        list[float] | None, typer.Option(help="MiB of each part of the compressed model but the last; repeat.")
    ] = None,
) -> None:
    """Put what a machine without a network needs into folders: the model in parts, rows and wheels (machine.sh)."""
    from .carry import pack

    for path in pack(folder, data_root, model, wheels, [int(size * 2**20) for size in part or [40]]):
        print(f"{path} {path.stat().st_size / 2**20:.1f} MiB")


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; its exit code."""
    return run_app(app, "python -m experiments.real_lm", arguments)


if __name__ == "__main__":
    sys.exit(main())
