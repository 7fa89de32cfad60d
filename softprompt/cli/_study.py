"""`softprompt study`: train the runs of a study file, and put what is stored into tables."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BadInput
from ._layout import laid_out, width_of
from .options import DataRoot, Device, Json, Quiet
from .printing import print_json, say

if TYPE_CHECKING:
    from ..study import RunSpec

study = typer.Typer(help="Many runs, each trained once, in one folder.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Study file (TOML).")]
Scale = Annotated[str | None, typer.Option("--scale", help="A scale that the file declares, as lab. Default: none.")]
Store = Annotated[Path, typer.Option("--store", help="Folder of the runs.")]


@study.command("run")
def run_study(
    file: File,
    store: Store,
    workers: Annotated[int, typer.Option(min=1, help="Processes to train with.")] = 1,
    fleet_size: Annotated[int, typer.Option(min=1, help="Most runs that share a pass of the frozen model.")] = 4,
    keep: Annotated[bool, typer.Option("--keep", help="Leave prompts and records in STORE/fleets.")] = False,
    scale: Scale = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train the runs of a study file that are not in the store yet.

    It may be interrupted or killed at any time; the same command continues. Prints the store's folder.
    """
    from ..study import load_specs, run_all

    specs = load_specs(file, scale)
    options: dict[str, Any] = {"workers": workers, "fleet_size": fleet_size, "keep": keep, "data_root": data_root}
    run_all(specs, store, device=device, progress=not quiet, **options)
    print(store)


@study.command("table")
def print_table(
    file: File,
    store: Store,
    by: Annotated[
        list[str] | None, typer.Option(help="Key of the rows; repeat. Default: what varies, seeds apart.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE", help="Paired differences of KEY's other values to VALUE.")
    ] = None,
    pair: Annotated[
        list[str] | None, typer.Option(help="Keys that a pair agrees in; repeat. Default: task, seed.")
    ] = None,
    scale: Scale = None,
    in_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    json_lines: Json = False,
) -> None:
    """Tables of the stored runs of a study file: scores, stuck share, norms; with --against, paired differences."""
    from ..study import compare, load_specs, read, summary, with_reference
    from ..study.tables import varying

    specs = _unique(load_specs(file, scale))
    runs = [run for run in read(store, specs) if run is not None]
    if not runs:
        raise BadInput(f"{store} holds none of the {len(specs)} runs of {file}; run `softprompt study run` first")
    if len(runs) < len(specs):
        say(f"softprompt: {len(specs) - len(runs)} of {len(specs)} runs are missing; the table is of the others")
    if against is None:
        keys = by or varying(specs) or ("task", "method")
        rows = with_reference(summary(runs, keys), runs, keys, file)
    else:
        key, sign, chosen = against.partition("=")
        if not sign:
            raise BadInput(f"--against {against!r} is not KEY=VALUE, as in method=prompt-tuning")
        rows = compare(runs, key, _as_in(runs, key, chosen), pair=pair or ("task", "seed"))
    _print(rows, in_markdown, json_lines)


def _unique(specs: "list[RunSpec]") -> "list[RunSpec]":
    return list({spec.name: spec for spec in specs}.values())


def _as_in(runs: Any, key: str, text: str) -> Any:
    """The value of a key whose text is this, or the text itself; no text is the value of a tag that a run lacks."""
    from ..study.tables import tags_of, value

    tags = tags_of(run.spec for run in runs)
    values = dict.fromkeys(value(run.spec, key, tags) for run in runs)
    return next((item for item in values if ("" if item is None else str(item)) == text), text)


def _print(rows: Any, in_markdown: bool, json_lines: bool) -> None:
    from ..study import columns, markdown

    if json_lines:
        for row in rows:
            print_json(row)
    elif in_markdown or not sys.stdout.isatty():
        print(markdown(rows))
    else:
        print(laid_out(*columns(rows), width_of(sys.stdout)))
