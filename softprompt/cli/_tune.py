"""`softprompt tune`: search for the settings of a prompt."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..settings import TrainSettings
from ._flatten import Given, Without, flatten
from ._layout import width_of
from ._references import ends
from ._rows import OwnRows, given_words, with_options
from .options import DataRoot, Device, Frozen, Json, MaxBadRows, NewModel, Quiet, Style, TaskOption
from .printing import print_json, say, table
from .required import required_model

if TYPE_CHECKING:
    from ..tuning import Lead, Tuning

# Settings of training whose default is another one here.
OWN = ("steps", "eval_every", "test_rows")


@flatten
def tune(
    *,
    given: Given,
    task: Annotated[str | None, typer.Argument(metavar="DATA", help="File of rows, or name of a task.")] = None,
    model: NewModel = None,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes that everything may take. Default: 30, if no --trials are given.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of candidates to try, in place of minutes.")] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of fresh seeds of the winner and of the default at the end.")
    ] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    method: Annotated[
        list[str] | None, typer.Option(help="Method that may be proposed; may be repeated. Default: five of them.")
    ] = None,
    try_template: Annotated[
        list[str] | None, typer.Option(help="Another template that may be proposed; may be repeated.")
    ] = None,
    ceiling: Annotated[
        bool, typer.Option("--ceiling", help="Also train LoRA, to see how much better than a prompt it is.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write. Default: tuned/<task>-<model>.")] = None,
    task_option: TaskOption = None,
    data_root: DataRoot = None,
    json_lines: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    rows: Annotated[OwnRows, "Rows of your own"],
    settings: Annotated[TrainSettings, "Training", Without({"epochs", *OWN})],
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel="Training",
            help="Optimiser steps of each run. Default: from 30 to 1000, as many as fit into the minutes; with "
            "--trials 1000.",
        ),
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel="Training",
            help="Optimiser steps between two evaluations. Default: a fifth of the steps.",
        ),
    ] = None,
    test_rows: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel="Training", help="Largest number of report rows. Default, and the most: 1000."
        ),
    ] = None,
    style: Style = None,
    max_bad_rows: MaxBadRows = 0,
    frozen: Frozen,
) -> None:
    """Search for the settings with which a prompt scores best, and score them on rows that no choice has used.

    It may be killed at any time; the same command goes on. Prints the best prompt's folder, with --json the report.
    """
    model = required_model(model)
    chosen = with_options(rows.task(task), task_option)
    from .. import tuning

    own = zip(OWN, (steps, eval_every, test_rows), strict=True)
    # The search itself chooses what was left out, which a default would hide.
    named = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings) if field.name in given}
    named |= {name: value for name, value in own if value is not None}
    tuned = tuning.tune(
        chosen,
        dataclasses.replace(frozen, name=model, device=device),
        minutes=minutes,
        trials=trials,
        seeds=seeds,
        seed=seed,
        method=method,
        templates=try_template or (),
        style=style,
        ceiling=ceiling,
        output=output,
        data_root=data_root,
        max_bad_rows=max_bad_rows,
        progress=not quiet,
        **given_words(rows.wording(task)),
        **named,
    )
    if json_lines:
        print_json(tuned.to_json())
        return
    for line in format_search(tuned, width_of(sys.stderr)):
        say(line)
    print(tuned.best)


def format_search(tuned: "Tuning", width: int | None = None) -> list[str]:
    """A search as a person reads it: the table of scores, and in sentences what won and by how much."""
    rows: list[dict[str, Any]] = [
        {
            f"on {tuned.rows['report']:,} report rows": line.name,
            "score": line.score,
            "95 % interval": ends(None if line.low is None or line.high is None else (line.low, line.high)),
            "deviation": line.deviation,
            "worst seed": line.worst,
            "seeds": len(line.each) or None,
        }
        for line in tuned.lines
    ]
    return ["", table(rows, width), "", *_sentences(tuned)]


def _sentences(tuned: "Tuning") -> list[str]:
    counts = ", ".join(f"{count} {state}" for state, count in tuned.trials.items())
    lines = [
        f"{sum(tuned.trials.values())} candidates ({counts}) in {tuned.cost['seconds'] / 60:.1f} minutes and "
        f"{tuned.cost['prompt_steps']:,} prompt steps, chosen on {tuned.rows['choosing']:,} rows"
        + (f" of each of {tuned.rows['folds']} folds." if tuned.rows["folds"] > 1 else ".")
    ]
    if tuned.is_default:
        return [*lines, "No candidate led the default settings convincingly, so the default won."]
    chosen = ", ".join(f"{name}={value}" for name, value in tuned.settings.items())
    return [*lines, f"The winner: {chosen}; template: {tuned.template}.", _of_lead(tuned.lead)]


def _of_lead(lead: "Lead | None") -> str:
    if lead is None:
        return "Its lead over the default is not known: no seed has a score with both settings."
    interval = ends((lead.low, lead.high), sign="+")
    verdict = "significant" if lead.is_significant else "not significant"
    p = "" if lead.p is None else f", p {lead.p:.2g}"
    return f"Its lead over the default is {lead.difference:+.3f} ({interval}{p}): {verdict}."
