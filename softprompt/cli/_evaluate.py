"""`softprompt evaluate`: scores of a stored prompt."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from ..tasks import Task, own_source
from ._backbone import Compute
from ._flatten import flatten
from ._options import DataRoot, Delimiter, Device, Json, Model, OwnStyle, OwnTask, Stored
from ._print import print_json, record


@flatten
def evaluate(
    prompt: Stored,
    *,
    task: OwnTask = None,
    style: OwnStyle = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="File of rows with the task's columns, scored whole; a glob, or repeat."),
    ] = None,
    delimiter: Delimiter = "",
    split: Annotated[str, typer.Option(help="train, validation or test, by the split rule of training.")] = "test",
    data_root: DataRoot = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in one pass.")] = 32,
    decode: Annotated[
        Literal["auto", "scores", "generate"],
        typer.Option(help="Score the label words, or generate the answer. auto: scores where there are label words."),
    ] = "auto",
    normalize: Annotated[
        Literal["sum", "mean", "first"],
        typer.Option(help="Over the token log-probabilities of a label word."),
    ] = "sum",
    max_bad_rows: Annotated[int, typer.Option(min=0, help="Malformed rows to drop before it is an error.")] = 0,
    json_lines: Json = False,
    compute: Annotated[Compute, "Frozen model"],
) -> None:
    """Score a stored prompt on a task: its metrics, the number of rows, and how many answers were invalid."""
    from ..evaluation import evaluate as evaluate_prompt
    from ..evaluation import task_of
    from ..prompt import SoftPrompt

    stored = SoftPrompt.load(prompt)
    chosen = task_of(stored, task, style)
    report = evaluate_prompt(
        stored,
        task=on_files(chosen, data, delimiter) if data else chosen,
        model=model,
        data_root=data_root,
        split="test" if data else split,
        decode=decode,
        normalize=normalize,
        batch_size=batch_size,
        device=device,
        max_bad_rows=max_bad_rows,
        **vars(compute),
    )
    if json_lines:
        print_json(report.to_json())
    else:
        print(record({**report.metrics, "rows": report.n, "invalid": report.invalid}))


def on_files(task: Task, files: Sequence[str], delimiter: str = "") -> Task:
    """The task with the rows of these files as its test split."""
    return dataclasses.replace(task, source=own_source({"test": files}, delimiter))
