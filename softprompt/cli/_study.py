"""`softprompt study`: train the runs of a study file, and put what is stored into tables."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BadInput
from ..spoken import duration
from ._layout import laid_out, width_of
from ._study_text import study_text
from .options import DataRoot, Device, Json, Quiet
from .printing import print_json, say, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..study import RunSpec, StoredRun

# Seconds between two looks of `status --watch`.
PAUSE_SECONDS = 2.0
# Columns that `best` leaves to --json.
_BEST_HIDDEN = ("state", "trainable", "stored numbers", "prompt steps", "majority", "token norms")

study = typer.Typer(help="Train many runs, each once, and compare them.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Study file (TOML).")]
Scale = Annotated[
    str | None,
    typer.Option("--scale", help="Name of a scale in the file, such as lab. Default: paper, the file as written."),
]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store", help="Folder of the runs. Default: runs/NAME-SCALE, by the file's name; of paper runs/NAME."
    ),
]


@study.command("run")
def run_study(
    file: File,
    store: Store = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    fleet_size: Annotated[
        int, typer.Option(min=1, help="Largest number of runs that share a pass of the frozen model.")
    ] = 4,
    keep: Annotated[bool, typer.Option("--keep", help="Keep prompts and records in STORE/fleets.")] = False,
    scale: Scale = None,
    executor: Annotated[
        str, typer.Option(help="Who trains: processes (of this machine) or ray (actors of a Ray cluster).")
    ] = "processes",
    ray_address: Annotated[
        str | None,
        typer.Option(help="Address of a running Ray cluster, or auto. Default: Ray is started on this machine."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for runs that other processes train, or end without them.")
    ] = True,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also train the runs that failed before.")
    ] = False,
    lease_seconds: Annotated[
        float,
        typer.Option(help="Seconds without a sign of life after which other processes take over a process's runs."),
    ] = 120,
    data_root: DataRoot = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train the runs of a study file that are not in the store yet.

    It may be interrupted or killed at any time; the same command continues. Several machines may share a store. Prints
    the store's folder.
    """
    from ..study import load_specs, run_all, under_other_names

    specs = load_specs(file, scale)
    store = _place(file, scale, store)
    if others := under_other_names(store, specs):
        say(f"softprompt: {others}")
    run_all(
        specs,
        store,
        fleet_size=fleet_size,
        workers=workers,
        data_root=data_root,
        device=device,
        keep=keep,
        progress=not quiet,
        executor=executor,
        ray_address=ray_address,
        wait=wait,
        retry_failed=retry_failed,
        lease_seconds=lease_seconds,
    )
    print(store)


@study.command("plan")
def print_plan(
    file: File,
    store: Store = None,
    fleet_size: Annotated[
        int, typer.Option(min=1, help="Largest number of runs that share a pass of the frozen model.")
    ] = 4,
    measured: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Load the models and time a few steps, to estimate the time.")
    ] = True,
    scale: Scale = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    json_lines: Json = False,
) -> None:
    """Say what is left to train: runs, fleets, steps, and an estimate of tokens and time."""
    from ..study import load_specs, plan

    specs = load_specs(file, scale)
    store = _place(file, scale, store)
    parts = plan(store, specs, fleet_size=fleet_size, measured=measured, data_root=data_root, device=device)
    if json_lines:
        for part in parts:
            print_json(vars(part))
        return
    print(table([{**vars(part), "seconds": _spoken(part.seconds)} for part in parts], width_of(sys.stdout)))
    runs, fleets = sum(part.runs for part in parts), sum(part.fleets for part in parts)
    seconds = [part.seconds for part in parts if part.seconds is not None]
    say(f"{runs} runs, {fleets} fleets left" + (f", {duration(sum(seconds))} with one process" if seconds else ""))


def _spoken(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


@study.command("table")
def print_table(
    file: File,
    store: Store = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Key of the rows; may be repeated. Default: everything that varies except seeds."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE", help="Earlier name of `study compare KEY=VALUE`.")
    ] = None,
    pair: Annotated[list[str] | None, typer.Option(help="Beside --against: that of `study compare`.")] = None,
    scale: Scale = None,
    best: Annotated[
        list[str] | None,
        typer.Option(
            help="Setting, such as lr, of which only the best value's runs count, by mean validation score, for each "
            "combination of all else; may be repeated."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write in place of printing: .csv, .tex or .md.")
    ] = None,
    in_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown in place of a table.")] = False,
    json_lines: Json = False,
) -> None:
    """Print tables of a study's stored runs: scores, stuck share, norms, and beside them the paper's numbers.

    With --output prints the file.
    """
    if against is not None and (best or output):
        raise BadInput("--best and --output are for the table of scores; leave --against out, or them")
    if output is not None and (in_markdown or json_lines):
        raise BadInput("--output writes a file in place of what --markdown and --json print; give one of them")
    if against is not None and by:
        raise BadInput("--by is for the table of scores, and --against for that of differences; give one of them")
    if against is None and pair:
        raise BadInput("--pair says which runs --against compares; give --against KEY=VALUE too, or leave it out")
    if against is not None:
        compare_runs(file, against, store, scale, pair, in_markdown, json_lines)
        return
    rows = _rows_of_scores(file, store, scale, by or (), best or ())
    if output is None:
        _print(rows, in_markdown, json_lines)
        return
    from ..study import TABLE_FORMATS, export

    print(export(rows, output, TABLE_FORMATS))


@study.command("compare")
def compare_runs(
    file: File,
    against: Annotated[
        str, typer.Argument(metavar="KEY=VALUE", help="KEY=VALUE with which KEY's other values are compared.")
    ],
    store: Store = None,
    scale: Scale = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(help="Key in which the runs of a pair agree; may be repeated. Default: task and seed."),
    ] = None,
    in_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown in place of a table.")] = False,
    json_lines: Json = False,
) -> None:
    """Print paired differences of test scores, with interval, wins and Wilcoxon's p."""
    from ..study import compare

    runs, _ = _stored_runs(file, store, scale)
    key, sign, chosen = against.partition("=")
    if not sign:
        raise BadInput(f"--against {against!r} is not KEY=VALUE, as in method=prompt-tuning")
    _print(compare(runs, key, _as_in(runs, key, chosen), pair=pair or ("task", "seed")), in_markdown, json_lines)


@study.command("status")
def print_status(
    file: File,
    store: Store = None,
    scale: Scale = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds.")] = False,
    json_lines: Json = False,
) -> None:
    """Show how far a study is: runs stored, in training, failed and left, who trains, and the time left."""
    from ..study import load_specs, status

    specs = load_specs(file, scale)
    store = _place(file, scale, store)
    if json_lines:
        print_json(status(store, specs).to_json())
        return
    if not watch:
        print(study_text(status(store, specs)))
        return
    from rich.live import Live

    with Live(study_text(status(store, specs)), auto_refresh=False) as live:
        while (now := status(store, specs)).left or now.running:
            live.update(study_text(now), refresh=True)
            time.sleep(PAUSE_SECONDS)
        live.update(study_text(now), refresh=True)


@study.command("best")
def print_best(
    file: File,
    store: Store = None,
    scale: Scale = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of runs.")] = 5,
    json_lines: Json = False,
) -> None:
    """Print the runs with the best validation scores, and their test scores."""
    from ..study import best, load_specs, rows_of

    specs = load_specs(file, scale)
    store = _place(file, scale, store)
    chosen = best(rows_of(store, specs), count)
    if not chosen:
        raise BadInput(f"{store} holds no scored run of {file}; run `softprompt study run` first")
    if json_lines:
        for row in chosen:
            print_json(row)
        return
    print(table([_named(row, _BEST_HIDDEN) for row in chosen], width_of(sys.stdout)))


@study.command("export")
def export_runs(
    file: File,
    output: Annotated[Path, typer.Argument(metavar="TABLE", help="File to write: .csv, .parquet, .json, .md or .tex.")],
    store: Store = None,
    scale: Scale = None,
) -> None:
    """Write one row a run: what varies, state, scores and cost. Prints the file."""
    from ..study import export, load_specs, rows_of

    specs = load_specs(file, scale)
    print(export(rows_of(_place(file, scale, store), specs), output))


def _place(file: Path, scale: str | None, store: Path | None) -> Path:
    """The folder of a study's runs: the one given, or that of the file's name and scale, which is said."""
    from ..study import AS_WRITTEN

    if store is not None:
        return store
    place = Path("runs", file.stem if scale in (None, AS_WRITTEN) else f"{file.stem}-{scale}")
    say(f"softprompt: the runs are in {place}; --store names another folder")
    return place


def _rows_of_scores(
    file: Path, store: Path | None, scale: str | None, by: "Sequence[str]", best: "Sequence[str]"
) -> "list[dict[str, Any]]":
    """The rows of `study table`; says which runs nothing chooses, and beside which no published number stands."""
    from ..study import chosen, other_keys, other_settings, summary, with_chosen, with_reference, without_number
    from ..study.tables import ceilings

    if both := [key for key in by if key in best]:
        raise BadInput(f"{both[0]} is a key of --by and of --best; give it to one of them")
    runs, specs = _stored_runs(file, store, scale, best)
    kept, unchosen = chosen(runs, best, specs)
    named = ", ".join(best)
    if not kept:
        raise BadInput(f"no run of {file} has a validation score to choose {named} by; leave --best out")
    if unchosen:
        say(f"softprompt: {len(unchosen)} runs have no validation score to choose {named} by; they are in no row")
    for line in filter(None, (without_number(specs, file, best), other_settings(specs, file))):
        say(f"softprompt: {line}")
    keys = by or other_keys(specs, best) or ("task", "method")
    rows = with_chosen(summary(kept, keys, ceiling=ceilings(runs)), kept, keys, best)
    return with_reference(rows, kept, keys, file, specs=specs, best=best)


def _stored_runs(
    file: Path, store: Path | None, scale: str | None, best: "Sequence[str]" = ()
) -> "tuple[list[StoredRun], list[RunSpec]]":
    """The stored runs of a study file, and all of its runs; says which are missing or have failed."""
    from ..study import load_specs, mixed, read, status, under_other_names

    specs = load_specs(file, scale)
    store = _place(file, scale, store)
    runs = [run for run in read(store, specs, whole=False) if run is not None]
    count = len({spec.name for spec in specs})
    if not runs:
        raise BadInput(
            under_other_names(store, specs)
            or f"{store} holds none of the {count} runs of {file}; run `softprompt study run` first"
        )
    if line := mixed(runs):
        say(f"softprompt: {line}")
    failed = status(store, specs).failed
    missing = count - len({run.name for run in runs}) - len(failed)
    if missing:
        also = f", and {', '.join(best)} is chosen among them" if best else ""
        say(f"softprompt: {missing} of {count} runs are missing; the table is of the others{also}")
    for name, reason in failed.items():
        say(f"softprompt: failed, so in no row: {name}: {reason}")
    return runs, specs


def _as_in(runs: Any, key: str, text: str) -> Any:
    """The value of a key that is written like this text, or the text itself; empty text is a missing tag."""
    from ..study.tables import TableContext, value

    context = TableContext(run.spec for run in runs)
    values = dict.fromkeys(value(run.spec, key, context) for run in runs)
    return next((item for item in values if ("" if item is None else str(item)) == text), text)


def _named(row: "dict[str, Any]", hidden: "tuple[str, ...]") -> "dict[str, Any]":
    kept = {name: item for name, item in row.items() if name not in hidden}
    return {name: item for name, item in kept.items() if not name.endswith((" invalid", " loss"))}


def _print(rows: Any, in_markdown: bool, json_lines: bool) -> None:
    from ..study import columns, markdown

    if json_lines:
        for row in rows:
            print_json(row)
    elif in_markdown or not sys.stdout.isatty():
        print(markdown(rows))
    else:
        print(laid_out(*columns(rows), width_of(sys.stdout)))
