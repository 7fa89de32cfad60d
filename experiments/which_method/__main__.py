"""`python -m experiments.which_method`: which method to use, part by part, and its tables."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from softprompt.cli import run_app
from softprompt.cli.options import DataRoot, Device, Json, Quiet
from softprompt.cli.printing import print_json
from softprompt.errors import BadInput

from ..common.page import write_page
from ..common.places import RESULTS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def confirm(
    *,
    part: Annotated[
        str,
        typer.Option(help="rates, core, fewshot, kinds, dropout, size, longest, long or real; or all."),
    ] = "all",
    store: Annotated[Path, typer.Option(help="Folder of the runs; runs in it are not repeated.")] = Path(
        "runs/confirm"
    ),
    results: Annotated[
        Path,
        typer.Option(help="File of finished runs' scores and of the learning rates; what it has is not run again."),
    ] = RESULTS / "confirm.json",
    seeds: Annotated[int | None, typer.Option(min=1, help="Of each part. Default: the part's own, 3 to 10.")] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task; repeat. Default: all of a part.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Real encoder: folder or hub id. Default: the bundled MiniLM.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two tasks, three methods, two seeds, 20 steps: to see that it runs.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Run nothing; print the tables of the results.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(help="With --table: put the summary tables into this page, as docs/results/which-method.md."),
    ] = None,
    json_lines: Json = False,
    data_root: DataRoot = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Which method to use: each at its own learning rate, on fresh seeds, over tasks, models and lengths of training.

    It may be interrupted or killed at any time: the same command goes on. Two processes may share store and results,
    best with different parts. Prints the results' file, or with --table Markdown (--json: one row a line).
    """
    from . import BEGIN, DESIGN, QUICK, Place, read_results, tables, text
    from . import confirm as run

    if not table and (page or json_lines):
        raise BadInput("--page and --json are of the tables; give --table too")
    whole = (QUICK if quick else DESIGN).with_encoder(model)
    if table:
        if not results.exists():
            raise BadInput(
                f"{results} does not exist; run `python -m experiments.which_method` first, or give --results FILE"
            )
        finished = read_results(results)
        if json_lines:
            for title, rows in tables(finished, whole).items():
                for row in rows:
                    print_json({"table": title, **row})
        elif page is not None:
            write_page(page, text(finished, whole, details=False), BEGIN)
            print(page)
        else:
            print(text(finished, whole), end="")
        return
    place = Place(store=store, results=results, data_root=data_root, encoder=model, device=device, progress=not quiet)
    run(whole.only(task or (), seeds), place, part)
    print(results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    return run_app(app, "python -m experiments.which_method", arguments)


if __name__ == "__main__":
    sys.exit(main())
