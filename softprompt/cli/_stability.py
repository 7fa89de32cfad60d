"""`softprompt stability`: many seeds of one or more settings on one task, and what they show."""

import dataclasses
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checks import option
from ..errors import BadInput
from ..settings import PromptSettings, TrainSettings
from ._compared import NO_SEEDS, compared
from ._flatten import Given, flatten
from ._layout import laid_out, width_of
from ._prompts import OF_GRID, PromptGrid
from ._rows import OwnRows, with_options
from .options import DataRoot, Device, Frozen, Json, MaxBadRows, NewModel, Quiet, Style, TaskOption
from .printing import print_json, say
from .required import required_model

if TYPE_CHECKING:
    from ..study import RunSpec
    from ..study.stability import Plan, Report

# Options that may be used with --study; everything else is in the file.
WITH_STUDY = {"study", "seeds", "base_seed", "vary", "store", "output", "fleet_size", "data_root", "device",
              "json_lines", "quiet", "with_frozen"}  # fmt: skip
# Options that a file with its own seeds replaces.
OF_SEEDS = ("seeds", "base_seed", "vary")


@flatten
def stability(
    *,
    given: Given,
    task: Annotated[str | None, typer.Option(help="Name from `softprompt tasks list`, or a file of rows.")] = None,
    model: NewModel = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME: OPTIONS",
            help="Setting to compare: options of training that replace the command's; may be repeated, the "
            "reference first. Default: each --method and --lr.",
        ),
    ] = None,
    study: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Study file with the settings, in place of --setting.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds of each setting.")] = 20,
    base_seed: Annotated[int, typer.Option(help="First seed, and the seed of what does not vary.")] = 0,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="init,order,draw,noise",
            help="What the seeds vary: of several, each alone and then all together. Default: everything at once.",
        ),
    ] = None,
    store: Annotated[Path, typer.Option(help="Folder of the runs. Runs in it are not repeated.")] = Path(
        "runs/stability"
    ),
    output: Annotated[
        Path | None, typer.Option(help="Folder of the report. Default: STORE/reports/<task>-<runs>.")
    ] = None,
    fleet_size: Annotated[
        int | None,
        typer.Option(min=1, help="Largest number of runs that share a pass. Default: the seeds of a setting."),
    ] = None,
    task_option: TaskOption = None,
    data_root: DataRoot = None,
    json_lines: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    with_frozen: Annotated[
        bool,
        typer.Option(
            "--with-frozen/--no-frozen", help="Also score the frozen model without training, on all test rows."
        ),
    ] = True,
    grid: Annotated[PromptGrid, "Prompts", NO_SEEDS],
    shared: Annotated[PromptSettings, "Prompts", OF_GRID],
    rows: Annotated[OwnRows, "Rows of your own"],
    settings: Annotated[TrainSettings, "Training"],
    style: Style = None,
    max_bad_rows: MaxBadRows = 0,
    frozen: Frozen,
) -> None:
    """Train many seeds of one or more settings on a task: how far do scores spread, and does a setting lower that?

    It may be interrupted or killed at any time; the same command continues. Prints tables, and what so many seeds can
    show; the report's folder has them as JSON and Markdown, and a figure with every seed.
    """
    sources = [source.strip() for source in vary.split(",")] if vary else []
    seeded = {"seeds": seeds, "base_seed": base_seed, "vary": sources}
    if study is not None:
        plans = _of_file(study, given, seeded)
    else:
        model = required_model(model, ", or --study FILE")
        chosen = compared(grid, shared, settings, setting)
        from ..study import model_fields, task_and_style

        spec, named = dataclasses.replace(frozen, name=model), with_options(rows.task(task), task_option)
        declared, style = task_and_style(named, spec, style, rows.wording(task))
        how = {**model_fields(spec), "style": style, "max_bad_rows": max_bad_rows}
        plans = [_planned(_specs(declared, chosen, how), seeded)]
    from ..store import refuse_no_place
    from ..study.stability import measure, refuse_other_report, write

    folder = output or store / "reports"
    refuse_no_place(folder, "the report")
    is_parted = output is None or len(plans) > 1
    places = [folder / _slug(planned) if is_parted else folder for planned in plans]
    for planned, place in zip(plans, places, strict=True):
        refuse_other_report(place, planned.about)
    for planned, place in zip(plans, places, strict=True):
        report = measure(
            planned,
            store,
            fleet_size=fleet_size,
            with_frozen=with_frozen,
            data_root=data_root,
            device=device,
            progress=not quiet,
        )
        write(report, place)
        _print(report, json_lines)
        say(f"written to {place}")


def _specs(task: Any, chosen: Mapping[str, Any], how: Mapping[str, Any]) -> "dict[str, RunSpec]":
    from ..study import RunSpec

    return {
        name: RunSpec(task=task, prompt=prompt, settings=settings, tags={"setting": name}, **how)
        for name, (prompt, settings) in chosen.items()
    }


def _planned(specs: "Mapping[str, RunSpec]", seeded: Mapping[str, Any]) -> "Plan":
    """The runs of each setting with each seed, each with its score on its own training rows."""
    from ..study.stability import plan

    scored = {
        name: dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, train_score=True))
        for name, spec in specs.items()
    }
    return plan(scored, **seeded)


def _of_file(path: Path, given: Given, seeded: Mapping[str, Any]) -> "list[Plan]":
    """One plan for each task of a study file: with its seeds if it has several, else with those of the command."""
    for name in sorted(given - WITH_STUDY):
        raise BadInput(f"--study FILE holds what is trained; drop {option(name)}, or write it there")
    from ..study import load_specs
    from ..study.stability import as_given, by_setting

    specs = load_specs(path)
    tasks = {task: [spec for spec in specs if spec.declared.name == task] for task in _tasks(specs)}
    if all(len(members) == 1 for task in tasks.values() for members in by_setting(task).values()):
        first = ({name: members[0] for name, members in by_setting(task).items()} for task in tasks.values())
        return [_planned(settings, {**seeded, "may_repeat": True}) for settings in first]
    for name in OF_SEEDS:
        if name in given:
            raise BadInput(f"{path} has seeds of its own; drop {option(name)}, or the seeds from the file")
    return [as_given(task) for task in tasks.values()]


def _tasks(specs: "list[RunSpec]") -> list[str]:
    return list(dict.fromkeys(spec.declared.name for spec in specs))


def _slug(planned: "Plan") -> str:
    names = " ".join(sorted({spec.name for spec in planned.specs}))
    task = str(planned.about["task"]).replace("/", "-")
    return f"{task}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"


def _print(report: "Report", json_lines: bool) -> None:
    from ..study.stability import remarks, tables, text, title

    if json_lines:
        print_json(report.to_json())
    elif not sys.stdout.isatty():
        print(text(report), flush=True)
    else:
        from rich.console import Console

        from ..study import columns

        console = Console()
        console.print(title(report), highlight=False, markup=False)
        for name, rows in tables(report).items():
            console.print(f"\n{name}", style="bold", highlight=False, markup=False)
            print(laid_out(*columns(rows), width_of(sys.stdout)))
        for line in remarks(report):
            console.print(line, highlight=False, markup=False)
