"""`softprompt evaluate`: scores of a stored prompt."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..checks import refuse_exists
from ..errors import BadInput, visible
from ..tasks import Task, named_files
from ._changed import tell_changed
from ._evaluated import in_words
from ._flatten import flatten
from ._rows import given_words, own_wording
from .options import (
    DataRoot,
    Decode,
    Delimiter,
    Device,
    FrozenOfPrompt,
    Json,
    Model,
    NewTokens,
    OwnInstruction,
    OwnLabelWords,
    OwnStyle,
    OwnTask,
    OwnTemplate,
    Stored,
)
from .printing import print_json


@flatten
def evaluate(
    prompt: Stored,
    *,
    task: OwnTask = None,
    style: OwnStyle = None,
    instruction: OwnInstruction = None,
    template: OwnTemplate = None,
    label_words: OwnLabelWords = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="File of rows with the task's columns, or a glob; all rows are scored; may be repeated."),
    ] = None,
    delimiter: Delimiter = "",
    split: Annotated[
        str, typer.Option(help="Split: train, validation or test, by the split rule of training.")
    ] = "test",
    test_rows: Annotated[
        int | None, typer.Option(min=1, help="Number of rows of the split, drawn by --seed. Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw of --test-rows.")] = 0,
    id_column: Annotated[
        str | None, typer.Option(help="Column with the names of the rows. Default: their numbers in the file.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write, with predictions.jsonl (one line a row) and report.json.")
    ] = None,
    data_root: DataRoot = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Number of rows in one pass.")] = 32,
    decode: Decode = None,
    max_new_tokens: NewTokens = None,
    normalize: Annotated[
        Literal["sum", "mean", "first"] | None,
        typer.Option(
            metavar="WORD",
            help="Score of a label: sum, mean or first of its tokens' log-probabilities. Default: as in training.",
        ),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Use the stored calibration of the label scores, if any.")
    ] = True,
    max_bad_rows: Annotated[
        int, typer.Option(min=0, help="Number of malformed rows that may be dropped; more are an error.")
    ] = 0,
    allow_files: Annotated[
        bool, typer.Option("--allow-files", help="Read the files that a prompt from elsewhere names as its rows.")
    ] = False,
    json_lines: Json = False,
    frozen: FrozenOfPrompt,
) -> None:
    """Score a stored prompt on a task: metrics with 95 % intervals, scores and confusions of the classes."""
    if output is not None:
        refuse_exists(output, "the evaluation")
    if data and split != "test":
        raise BadInput(f"the rows of --data are scored whole, there is no {split!r} of them; leave --split out")
    from ..inference.asked import task_of
    from ..inference.evaluate import evaluate as evaluate_prompt
    from ..interop.stored import load
    from ..store import json_bytes, refuse_no_place, write_folder

    if output is not None:
        refuse_no_place(output, "the evaluation")
    stored = load(prompt)
    if not data and task is None:
        tell_changed([prompt], split)
    report = evaluate_prompt(
        stored,
        rows=data or None,
        delimiter=delimiter,
        task=task,
        style=style,
        **given_words(own_wording(instruction, template, label_words)),
        model=dataclasses.replace(frozen, name=model or "", device=device),
        data_root=data_root,
        split=split,
        test_rows=test_rows,
        seed=seed,
        id_column=id_column,
        decode=decode,
        max_new_tokens=max_new_tokens,
        normalize=normalize,
        calibrate=calibrate,
        batch_size=batch_size,
        max_bad_rows=max_bad_rows,
        allow_files=allow_files or (not data and _is_allowed(task_of(stored, task, style))),
    )
    if output is not None:
        contents = {
            "predictions.jsonl": report.predictions_jsonl(),
            "report.json": json_bytes(report.to_json()),
        }
        write_folder(output, contents, what="the evaluation", manifest=False)
    if json_lines:
        print_json(report.to_json())
    else:
        print(in_words(report))


def _is_allowed(task: Task) -> bool:
    """Whether the user allows the program to read the files that a prompt from elsewhere names."""
    files = named_files(task)
    if not files or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    listed = visible(", ".join(files[:3]) + (" ..." if len(files) > 3 else ""))
    question = f"softprompt: this prompt is from elsewhere; read {listed}, which it names as its rows?"
    return typer.confirm(question, err=True)
