"""`softprompt predict`: answers of a stored prompt, one JSON line an input."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import BadInput
from ..tasks import FORMATS, records
from ._backbone import Compute
from ._flatten import flatten
from ._options import Delimiter, Device, Model, OwnStyle, OwnTask, Stored
from ._print import print_json


@flatten
def predict(
    prompt: Stored,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to answer; `-` or nothing reads lines from a pipe.")
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(help="Texts, one a line (.txt), or rows with the task's columns (.csv, .json, .parquet ...)."),
    ] = None,
    delimiter: Delimiter = "",
    task: OwnTask = None,
    style: OwnStyle = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs in one pass.")] = 32,
    decode: Annotated[
        Literal["auto", "scores", "generate"], typer.Option(help="As in `softprompt evaluate`.")
    ] = "auto",
    compute: Annotated[Compute, "Frozen model"],
) -> None:
    """Answer texts with a stored prompt, in JSON lines: {text, label, scores} or {text, output}."""
    inputs = read_inputs(texts or [], file, delimiter)
    from ..prompt import SoftPrompt

    stored = SoftPrompt.load(prompt)
    for answer in stored.predict(
        inputs,
        task=task,
        style=style,
        model=model,
        batch_size=batch_size,
        device=device,
        decode=decode,
        **vars(compute),
    ):
        print_json(answer)


def read_inputs(texts: Sequence[str], file: Path | None, delimiter: str = "") -> Sequence[str | Mapping[str, Any]]:
    """What is to be answered: the arguments, a file, or the lines of standard input.

    Raises:
        BadInput: nothing, or both texts and a file.
    """
    if texts and file:
        raise BadInput("give texts or --file, not both")
    if file is not None:
        found = read_file(file, delimiter)
    elif texts and list(texts) != ["-"]:
        found = texts
    elif not texts and sys.stdin.isatty():
        raise BadInput("nothing to answer; give texts, --file FILE, or pipe one text a line")
    else:
        found = lines(sys.stdin.read())
    if not found:
        raise BadInput(f"{file or 'standard input'} is empty; at least one text is needed")
    return found


def read_file(path: Path, delimiter: str = "") -> Sequence[str | Mapping[str, Any]]:
    """The rows of a CSV, TSV, JSON or Parquet file, or the lines of any other.

    Raises:
        BadInput: no such file, not UTF-8, or a malformed row, named as file:line.
    """
    if path.name.lower().endswith(FORMATS):
        found = list(records(path, delimiter))
        for record in found:
            if record.fault:
                raise BadInput(f"{path}:{record.line}: {record.fault}")
        return [record.values for record in found]
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}")
    try:
        return lines(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{str(path)!r} is not UTF-8 (byte {error.start}); convert it first") from error


def lines(text: str) -> list[str]:
    """One text a line; a blank line is a text too, so that answers and lines stay side by side."""
    # Not splitlines(): a text may hold U+2028 or a form feed.
    found = text.split("\n")
    return [line.removesuffix("\r") for line in (found if found[-1] else found[:-1])]
