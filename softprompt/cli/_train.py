"""`softprompt train`: prompts on a frozen model, one a method, learning rate and seed."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checks import option
from ..errors import BadInput
from ..settings import PromptSettings, TrainSettings
from ._flatten import Given, flatten
from ._layout import width_of
from ._prompts import OF_GRID, PromptGrid
from ._references import comparison_table
from ._rows import OwnRows, given_words, with_options
from ._several import summary
from .options import DataRoot, Device, Frozen, Json, MaxBadRows, NewModel, Quiet, Style, TaskOption
from .printing import print_json, say, table
from .required import required_model

if TYPE_CHECKING:
    from ..training import Result, Run

# Options that may be used with --resume; everything else is in the run's record.
WITH_RESUME = {"resume", "model", "json_lines", "device", "quiet"}


@flatten
def train(
    *,
    given: Given,
    task: Annotated[str | None, typer.Option(help="Name from `softprompt tasks list`, or a file of rows.")] = None,
    model: NewModel = None,
    task_option: TaskOption = None,
    data_root: DataRoot = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write. Default: runs/<task>-<methods>-<time>.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Folder of an interrupted run to continue.")
    ] = None,
    json_lines: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    track: Annotated[
        str | None,
        typer.Option(help="Trackers that also get the losses: tensorboard, wandb, mlflow, aim ..., joined by commas."),
    ] = None,
    log_with: Annotated[str | None, typer.Option(help="Earlier name of --track.")] = None,
    with_frozen: Annotated[
        bool,
        typer.Option("--with-frozen/--no-frozen", help="Also score the frozen model alone, on at most 200 test rows."),
    ] = True,
    grid: Annotated[PromptGrid, "Prompts"],
    shared: Annotated[PromptSettings, "Prompts", OF_GRID],
    rows: Annotated[OwnRows, "Rows of your own"],
    settings: Annotated[TrainSettings, "Training"],
    style: Style = None,
    max_bad_rows: MaxBadRows = 0,
    frozen: Frozen,
) -> None:
    """Train soft prompts on a frozen model, one for each method, learning rate and seed, all at once.

    Prints the run's folder, or with --json one line a prompt; progress and scores go to standard error.
    """
    if resume is not None:
        _refuse_beside_resume(given)
        from .. import training

        _report(training.resume(resume, model=model, device=device, progress=not quiet), json_lines)
        return
    chosen, prompts = with_options(rows.task(task), task_option), grid.prompts(shared)
    model = required_model(model)
    from .. import training

    run = training.train(
        chosen,
        dataclasses.replace(frozen, name=model, device=device),
        prompts=prompts,
        settings=settings,
        output=output,
        data_root=data_root,
        style=style,
        max_bad_rows=max_bad_rows,
        log_with=",".join(filter(None, (track, log_with))) or None,
        progress=not quiet,
        with_frozen=with_frozen,
        **given_words(rows.wording(task)),
    )
    _report(run, json_lines)


def _refuse_beside_resume(given: Given) -> None:
    for name in sorted(given - WITH_RESUME):
        raise BadInput(f"--resume goes on with the run's own settings; drop {option(name)}, or start a new run")


def _report(run: "Run", json_lines: bool) -> None:
    from ..training import Processes

    if not Processes.here().is_first:
        return
    if run.comparison is not None:
        say(comparison_table(run.comparison, width_of(sys.stderr)))
        say("")
    say(table([_row(result) for result in run.results], width_of(sys.stderr)))
    if len(run.results) > 1:
        say("")
        say(table(summary(run.results), width_of(sys.stderr)))
    if not json_lines:
        print(run.folder)
        return
    for result in run.results:
        print_json(result.to_json())


def _row(result: "Result") -> dict[str, Any]:
    scores = {f"{split} score": result.metrics.get(split, {}).get("score") for split in ("validation", "test")}
    counts = {"trainable": result.trainable, "head": result.head, "stored": result.stored, "norm": _norm(result)}
    return {"prompt": result.prompt, "best step": result.best_step, **scores, **counts, "status": result.status}


def _norm(result: "Result") -> str | None:
    from ..prompts.units import format_norm

    if result.norm is None:
        return None
    return format_norm(result.norm, result.norm / result.token_norms if result.token_norms else None)
