"""`softprompt tasks`: the tasks that are known by name."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..tasks import PATTERNS, SPLITS, TASKS, Task, styled
from ..tasks import task as find_task
from ._layout import width_of
from ._rows import with_options
from .options import DataRoot, Json, TaskOption
from .printing import print_json, record, table

tasks = typer.Typer(help="List and check the tasks that are known by name.", no_args_is_help=True)


@tasks.command("list")
def list_tasks(json_lines: Json = False) -> None:
    """List the tasks that are known by name."""
    rows = [
        {
            "task": task.name,
            "metrics": task.metrics,
            "answer": task.answer,
            "labels": task.labels,
            "columns": task.columns,
        }
        for task in TASKS.values()
    ]
    if json_lines:
        print_json(rows)
    else:
        print(table(rows, width_of(sys.stdout)))


@tasks.command("show")
def show_task(
    name: Annotated[str, typer.Argument(help="Name of a task.")],
    style: Annotated[
        str | None,
        typer.Option(help="Template and label words: numeric, compat, words, instruct, t5 or pet-N (cloze pattern N)."),
    ] = None,
    task_option: TaskOption = None,
    json_lines: Json = False,
) -> None:
    """Show a task: template, label words, metrics, and where its rows are."""
    task = with_options(find_task(name), task_option)
    print_task(styled(task, style), json_lines)


@tasks.command("check")
def check_tasks(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of tasks. Default: all published ones.")
    ] = None,
    data_root: DataRoot = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Hub id or folder of a tokenizer, to count the rows that are too long.")
    ] = None,
    json_lines: Json = False,
) -> None:
    """Check which published tasks are at hand, and whether their rows are those of the published sets."""
    from ..data.check import check_task

    chosen = [find_task(name) for name in names or (t.name for t in TASKS.values() if not t.source.world)]
    length = _length_by(tokenizer) if tokenizer else None
    checks = []
    for task in chosen:
        checks.append(check_task(task, data_root, length))
        if json_lines:
            more = {"fault": checks[-1].fault, "is_complete": checks[-1].is_complete}
            print_json({**dataclasses.asdict(checks[-1]), **more})
    if not json_lines:
        print(table([_check_row(check) for check in checks], width_of(sys.stdout)))


def _length_by(name: str) -> Callable[[str], int]:
    """The tokens of a text by the tokenizer of that name, special tokens included."""
    from ..backbones import read_tokenizer, source_of

    tokenizer = read_tokenizer(source_of(name), None)
    return lambda text: len(tokenizer(text, verbose=False).input_ids)


def _check_row(check: Any) -> dict[str, Any]:
    """A check as one line of the table."""
    state = "complete" if check.is_complete else "other rows"
    if check.rows and check.faults:
        state = f"without {', '.join(check.faults)}"
    elif check.faults:
        state = "unusable" if check.is_there else "not found"
    elif not check.official:
        state = "found"
    return {
        "task": check.task,
        "rows": state,
        **{split: check.rows.get(split) for split in SPLITS},
        "published": "/".join(str(check.official.get(split, "-")) for split in SPLITS),
        "labels": {label: round(share, 3) for label, share in check.labels.items()},
        "also in train": check.overlap,
        "too long": check.too_long,
        "metrics": check.metrics,
        "why": check.fault,
    }


def print_task(task: Task, json_lines: bool) -> None:
    """A task as JSON, or as the lines a person asks for."""
    if json_lines:
        print_json(task.to_json())
    else:
        print(record(summary(task), width_of(sys.stdout)))


def summary(task: Task) -> dict[str, Any]:
    """What a person wants to know of a task."""
    source = task.source
    patterns = {
        f"pet-{number}": f"{pattern.template} -> {' | '.join(pattern.labels)}"
        for number, pattern in enumerate(PATTERNS.get(task.name, ()))
    }
    hub = " ".join(filter(None, (source.hub, source.config, source.revision and f"({source.revision})")))
    return {
        "task": task.name,
        "instruction": task.instruction,
        "template": task.template.replace("\n", "\\n"),
        "cue": task.cue,
        "t5_template": task.t5_template,
        **patterns,
        "answer": task.answer,
        "labels": task.labels,
        "columns": task.columns,
        "target": task.target,
        "may be truncated": task.truncate or task.columns,
        "max_length": task.max_length,
        "metrics": task.metrics,
        "score": task.scores,
        "hub": hub,
        "folder": source.folder,
        "lab": " ".join([source.world, *(f"{k}={v}" for k, v in source.options.items())]),
        "files": [f"{split}: {path}" for split in source.files for path in source.paths(split)],
        "memory": [f"{split}: {rows.count} rows" for split, rows in source.memory.items()],
    }
