"""Records of a file one by one, each with its line, so that a malformed one can be named. No torch here."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadInput

FORMATS = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
_UNREADABLE = re.compile("[\0\ud800-\udfff]")


class Record(NamedTuple):
    """One row of a file, or what is wrong with it.

    Args:
        line: where it starts, from 1 (the row's number in a Parquet file).
        values: by column; empty if the row cannot be read.
        fault: why it cannot be read.
    """

    line: int
    values: Mapping[str, Any]
    fault: str = ""


def format_of(path: Path) -> str:
    """The format that the file's name says.

    Raises:
        BadInput: another ending.
    """
    for ending in FORMATS:
        if path.name.lower().endswith(ending):
            return ending
    raise BadInput(f"cannot tell the format of {str(path)!r} by its name; known endings: {', '.join(FORMATS)}")


def text_fault(text: str) -> str:
    """Why a text cannot go to a tokenizer, or nothing."""
    found = _UNREADABLE.search(text)
    if not found:
        return ""
    return "a NUL character" if found[0] == "\0" else "bytes that are not UTF-8 (or a lone surrogate)"


def records(path: Path) -> Iterator[Record]:
    """The rows of a JSONL, CSV (also .gz) or Parquet file; blank lines are skipped.

    Raises:
        BadInput: no such file, an unknown format, or a file that is damaged as a whole.
    """
    ending = format_of(path)
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}")
    try:
        if ending == ".parquet":
            yield from _parquet(path)
            return
        with _opened(path, ending) as stream:
            yield from (_csv if ending.startswith(".csv") else _jsonl)(stream, path)
    except (EOFError, zlib.error, OSError) as error:
        raise BadInput(f"cannot read {str(path)!r}: {error}; the file is damaged or not readable") from error


def _opened(path: Path, ending: str) -> io.TextIOWrapper:
    opened = gzip.open if ending.endswith(".gz") else open
    # csv splits lines itself, so that a quoted field may hold line ends.
    newline = "" if ending.startswith(".csv") else None
    # Undecodable bytes become lone surrogates, so both are found by one check (text_fault), with their line.
    return opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _jsonl(stream: io.TextIOWrapper, path: Path) -> Iterator[Record]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line.rstrip("\n"))
        except (ValueError, RecursionError) as error:
            known = isinstance(error, json.JSONDecodeError)
            reason = f"{error.msg}: column {error.colno}" if known else "too large or too deep"
            yield Record(number, {}, f"not JSON ({reason})")
            continue
        if isinstance(values, dict):
            yield Record(number, values)
        else:
            yield Record(number, {}, "not a JSON object")


def _csv(stream: io.TextIOWrapper, path: Path) -> Iterator[Record]:
    reader = csv.reader(stream, strict=True)
    header = _header(reader, path)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(number, {}, f"not CSV ({error})")
            continue
        if not cells:
            continue
        if len(cells) == len(header):
            yield Record(number, dict(zip(header, cells, strict=True)))
        else:
            yield Record(number, {}, f"{len(cells)} fields, the header has {len(header)}")


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise BadInput(f"{path}:1: the header is not CSV ({error})") from error
    for name in header:
        if header.count(name) > 1:
            raise BadInput(f"{path}:1: two columns are called {name!r}; rename one")
    return header


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise BadInput(f"cannot read {str(path)!r} as Parquet: {str(error).splitlines()[0]}") from error
    number = 0
    for batch in table.to_batches():
        for values in batch.to_pylist():
            number += 1
            yield Record(number, values)
