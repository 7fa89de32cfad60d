"""`python -m experiments.claims`: claims of the papers, tested and judged."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from softprompt.cli import run_app
from softprompt.cli.options import Device, Quiet

from ..common.places import PAGES, RESULTS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def claims(
    *,
    store: Annotated[Path | None, typer.Option(help="Folder of the runs. Default: runs/claims, or -quick.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One task, 20 steps, 2 seeds: a minute instead of about an hour.")
    ] = False,
    real: Annotated[
        bool,
        typer.Option("--real", help="Ask EPT's claims of SmolLM2, for the page's column; some four hours of a core."),
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(help="File of the results. Default: the checkout's claims.json; with --quick in the store."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of claims.md and its figures. Default: docs/results; with --quick the store."),
    ] = None,
    evidence: Annotated[
        Path, typer.Option(help="Folder with the results of the confirmation and stability studies.")
    ] = RESULTS,
    seeds: Annotated[int | None, typer.Option(min=2, help="Of each setting on each task. Default: 4.")] = None,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Train nothing: the page from the results as they are.")
    ] = False,
    fleet_size: Annotated[int, typer.Option(min=1, help="Most runs that share a pass.")] = 8,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Test claims of the papers on a built-in backbone, and write a page with a verdict for each claim.

    Trains the runs that the results lack, in a store. It may be killed at any time; the same command continues.
    Results keep finished runs, so that a lost store costs nothing. Prints the page's path.
    """
    import dataclasses

    from . import FULL, QUICK, TABLES, read_results, run, write
    from .real_model import FILE

    if real:
        from .ask_real import ask_real

        path = results or RESULTS / FILE
        ask_real(path, store or Path("runs/claims-real"), fleet_size=fleet_size, device=device, progress=not quiet)
        print(f"{path}; `python -m experiments.claims` writes it into the page")
        return
    design = QUICK if quick else FULL
    if seeds is not None:
        design = dataclasses.replace(design, seeds=seeds)
    store = store or Path("runs/claims-quick" if quick else "runs/claims")
    results = results or (store if quick else RESULTS) / "claims.json"
    if not page_only:
        run(
            results,
            store=store,
            design=design,
            evidence=evidence,
            fleet_size=fleet_size,
            device=device,
            progress=not quiet,
        )
    # Of the file, in whose order resampled intervals are the same whenever the page is made.
    print(write(read_results(results), out or (store if quick else PAGES), numbers=results.with_name(TABLES)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    return run_app(app, "python -m experiments.claims", arguments)


if __name__ == "__main__":
    sys.exit(main())
