"""`python -m experiments.claims` and `python -m experiments.t5`: what the papers say, tried and judged."""

from pathlib import Path
from typing import Annotated

import typer
from softprompt.cli.options import DataRoot, Device, Json, Quiet
from softprompt.cli.printing import print_json, say


def claims(
    *,
    store: Annotated[Path | None, typer.Option(help="Folder of the runs. Default: runs/claims, or -quick.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One task, 40 steps, 6 seeds: minutes instead of about an hour.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(help="File of the results. Default: experiments/results/claims.json; with --quick in the store."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of claims.md and its figures. Default: docs; with --quick the store.")
    ] = None,
    evidence: Annotated[
        Path, typer.Option(help="Folder with the results of the confirmation and stability studies.")
    ] = Path("benchmarks/results"),
    seeds: Annotated[int | None, typer.Option(min=2, help="Of each setting on each task. Default: 4.")] = None,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Train nothing: the page from the results as they are.")
    ] = False,
    fleet_size: Annotated[int, typer.Option(min=1, help="Most runs that share a pass.")] = 8,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Try what the papers say on a built-in backbone, and write a page with a verdict for each claim.

    Trains what the results lack, in a store; it may be killed at any time, the same command goes on. Finished runs are
    kept in the results, so that a lost store costs nothing. Prints the page's path.
    """
    import dataclasses

    from . import FULL, QUICK, read_results, run, write

    design = QUICK if quick else FULL
    if seeds is not None:
        design = dataclasses.replace(design, seeds=seeds)
    store = store or Path("runs/claims-quick" if quick else "runs/claims")
    results = results or (store if quick else Path("benchmarks/results")) / "claims.json"
    if page_only:
        found = read_results(results)
    else:
        found = run(
            results,
            store=store,
            design=design,
            evidence=evidence,
            fleet_size=fleet_size,
            device=device,
            progress=not quiet,
        )
    print(write(found, out or (store if quick else Path("docs"))))


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
    from ..t5 import check as real_t5

    folder = store or Path("runs") / f"real-t5-{check.resolve().name}"
    found = real_t5.check(
        check, folder, data_root=data_root, minutes=minutes, steps=steps, seeds=seeds, device=device, progress=not quiet
    )
    if json_lines:
        print_json(found.to_json())
    else:
        print(real_t5.text(found))
    say(f"runs in {folder}")
