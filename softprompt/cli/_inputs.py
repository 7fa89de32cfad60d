"""The inputs of `softprompt predict`: texts on the command line, a file, or a pipe."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadInput
from ..tasks import FORMATS, records

# One word that ends as the name of a file of texts or rows does.
LIKE_A_FILE = re.compile(r"\S+\.(?:txt|csv|tsv|json|jsonl|parquet)(?:\.(?:gz|zst))?", re.IGNORECASE)


class Input(NamedTuple):
    """A text or a row, and where it stands: `rows.csv:3`."""

    place: str
    given: str | Mapping[str, Any]


def read_inputs(texts: Sequence[str], file: Path | None, delimiter: str = "") -> Sequence[Input]:
    """The texts or rows to answer: the arguments, a file, or the lines of standard input.

    Raises:
        BadInput: nothing, both texts and a file, an empty text, or a text that is the name of a file.
    """
    if texts and file:
        raise BadInput("give texts or --file, not both")
    if file is not None:
        rows = read_file(file, delimiter)
    elif texts and list(texts) != ["-"]:
        rows = [Input(f"text {number}", _text(number, text)) for number, text in enumerate(texts, 1)]
    elif not texts and sys.stdin.isatty():
        raise BadInput("nothing to answer; give texts, --file FILE, or pipe one text a line")
    else:
        rows = _lines("standard input", _piped())
    if not rows:
        raise BadInput(f"{file or 'standard input'} is empty; at least one text is needed")
    return rows


def _piped() -> str:
    """What standard input holds.

    Raises:
        BadInput: it is in another encoding than this system's.
    """
    try:
        # The mark of UTF-8 that some programs begin with is read as a letter here.
        return sys.stdin.read().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadInput(f"standard input is not UTF-8 (byte {error.start}); convert it first") from error


def _text(number: int, text: str) -> str:
    """A text of the command line, if it is one."""
    if not text.strip():
        raise BadInput(f"text {number} is empty; give words to answer")
    if LIKE_A_FILE.fullmatch(text):
        is_there = "is a file" if Path(text).is_file() else "looks like a file that is not here"
        raise BadInput(f"{text!r} {is_there}, not a text; give --file {text}, or pipe it if it is what to answer")
    return text


def read_file(path: Path, delimiter: str = "") -> Sequence[Input]:
    """The rows of a CSV, TSV, JSON or Parquet file, or the lines of any other.

    Raises:
        BadInput: no such file, not UTF-8, or a malformed row, named as file:line.
    """
    if path.name.lower().endswith(FORMATS):
        read = list(records(path, delimiter))
        for record in read:
            if record.fault:
                raise BadInput(f"{path}:{record.line}: {record.fault}")
        return [Input(f"{path}:{record.line}", record.values) for record in read]
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}")
    try:
        return _lines(str(path), path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{str(path)!r} is not UTF-8 (byte {error.start}); convert it first") from error


def _lines(place: str, text: str) -> list[Input]:
    """One text a line; a blank line is a text too, so that answers and lines stay side by side."""
    # Not splitlines(): a text may hold U+2028 or a form feed.
    pieces = text.split("\n")
    whole = pieces if pieces[-1] else pieces[:-1]
    return [Input(f"{place}:{number}", line.removesuffix("\r")) for number, line in enumerate(whole, 1)]
