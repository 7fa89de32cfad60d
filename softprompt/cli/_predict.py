"""`softprompt predict`: answers of a stored prompt, one JSON line an input."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BadInput
from ._flatten import flatten
from ._inputs import read_inputs
from ._predict_file import refuse_beside_output, to_file
from ._rows import given_words, own_wording
from .options import (
    Decode,
    Delimiter,
    Device,
    FrozenOfPrompt,
    Model,
    NewTokens,
    OwnInstruction,
    OwnLabelWords,
    OwnStyle,
    OwnTask,
    OwnTemplate,
    Quiet,
    Stored,
)
from .printing import print_json


@flatten
def predict(
    prompt: Stored,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to answer. Without them, or with `-`, lines are read from a pipe.")
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            help="File of texts, one a line (.txt), or of rows with the task's columns (.csv, .json, .parquet ...)."
        ),
    ] = None,
    delimiter: Delimiter = "",
    task: OwnTask = None,
    style: OwnStyle = None,
    instruction: OwnInstruction = None,
    template: OwnTemplate = None,
    label_words: OwnLabelWords = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Number of texts in one pass.")] = 32,
    decode: Decode = None,
    max_new_tokens: NewTokens = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Use the stored calibration of the label scores, if any.")
    ] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            help="With --file, a file to write answers into (.jsonl, .csv, .tsv, .gz and .zst of these, or "
            ".parquet), and go on "
            "where a killed command stopped."
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]RUN|PROMPT", help="With --output, a further prompt, for a column NAME; may be repeated."
        ),
    ] = None,
    id_column: Annotated[
        str, typer.Option(help="With --output, a column of the file to keep. Default: the row's number.")
    ] = "",
    quiet: Quiet = False,
    frozen: FrozenOfPrompt,
) -> None:
    """Answer texts with a stored prompt, in JSON lines: {text, label, scores} or {text, output}.

    `text` is the text as it was given, or the filled template of a task of several columns. Lines are printed in the
    order of the texts, as soon as they are answered.
    """
    spec = dataclasses.replace(frozen, name=model or "", device=device)
    if output is not None:
        task_options = {"--task": task, "--style": style, "--instruction": instruction, "--template": template}
        refuse_beside_output(file, texts, {**task_options, "--label-words": label_words})
        assert file is not None
        to_file(
            [prompt, *(prompts or [])], file, output, not quiet,
            id_column=id_column or None, delimiter=delimiter, model=spec, batch_size=batch_size, decode=decode,
            calibrate=calibrate, max_new_tokens=max_new_tokens,
        )  # fmt: skip
        return
    if prompts or id_column:
        raise BadInput("--prompts and --id-column are for answers in a file; give --output and --file")
    inputs = read_inputs(texts or [], file, delimiter)
    from ..inference.predict import predict as answer
    from ..interop.stored import load

    stored = load(prompt)
    with _bar(len(inputs), not quiet) as advance:

        def tell(answers: Sequence[Mapping[str, Any]]) -> None:
            for answer in answers:
                print_json(answer)
            advance(len(answers))

        answer(
            stored,
            [one.given for one in inputs],
            task=task,
            style=style,
            **given_words(own_wording(instruction, template, label_words)),
            model=spec,
            batch_size=batch_size,
            decode=decode,
            calibrate=calibrate,
            max_new_tokens=max_new_tokens,
            tell=tell,
            places=[one.place for one in inputs],
        )


@contextlib.contextmanager
def _bar(total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; none where the answers themselves go to the terminal."""
    if not show or sys.stdout.isatty() or not sys.stderr.isatty():
        yield lambda answered: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("predict"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # Standard output is a file or a pipe, so nothing may be drawn above the bar.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        bar = progress.add_task("predict", total=total)
        yield lambda answered: progress.advance(bar, answered)
