"""`softprompt evaluate`: scores of a stored prompt."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..tasks import Source, Task
from ._backbone import Compute
from ._flatten import flatten
from ._options import DataRoot, Device, Json, Model, OwnStyle, OwnTask, Stored
from ._print import print_json, record


@flatten
def evaluate(
    prompt: Stored,
    *,
    task: OwnTask = None,
    style: OwnStyle = None,
    data: Annotated[Path | None, typer.Option(help="File of rows with the columns of the task, scored whole.")] = None,
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
        task=chosen if data is None else on_file(chosen, data),
        model=model,
        data_root=data_root,
        split=split if data is None else "test",
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


def on_file(task: Task, file: Path) -> Task:
    """The task with the rows of one file as its test split."""
    return dataclasses.replace(task, source=Source(files={"test": str(file)}))
