"""Rows of CSV and TSV: one header, the same number of fields in each row, and a line for each fault."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..documents import now
from ..errors import BadInput
from ._records import Record

_NAMES = {"tab": "\t", "\\t": "\t"}
# What separates fields in files of other programs, the likeliest first.
_USUAL = (",", "\t", ";", "|")
_QUOTING = 'a quote that belongs to a text is written twice, and the text in quotes: """So", she said.'


def delimiter_of(given: str) -> str:
    r"""The character that separates fields, from what a user writes: ";", "tab" or "\t".

    Raises:
        BadInput: more or less than one character, or one that CSV uses otherwise.
    """
    delimiter = _NAMES.get(given, given)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise BadInput(f"the delimiter is one character that separates fields, as ';' or 'tab', not {given!r}")
    return delimiter


def delimited(stream: io.TextIOBase, path: Path, delimiter: str, *, given: bool) -> Iterator[Record]:
    """The rows of a CSV file; blank lines are skipped.

    Args:
        stream: its text, opened with newline="".
        path: for messages.
        delimiter: what separates fields.
        given: whether a user named the delimiter; if not, a header that reads like another one's is refused.

    Raises:
        BadInput: a header that is not CSV, names a column twice, or has another delimiter.
    """
    # Python's own limit, 131072 characters, is below what one row of a document may have.
    csv.field_size_limit(max(csv.field_size_limit(), now().row_characters))
    reader: Any = csv.reader(stream, strict=True, delimiter=delimiter)
    header = _header(reader, path)
    if not given:
        _refuse_other_delimiter(header, path)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(number, {}, f"not CSV ({_reason(error)})")
            continue
        if not cells:
            continue
        if delimiter == "\t" and any("\t" in cell and "\n" in cell.replace("\r", "\n") for cell in cells):
            # Most TSV quotes nothing: two texts that begin with a quote would be one, and a row would be gone.
            yield Record(number, {}, f"a tab and the end of a line stand between two quotes; {_QUOTING}")
        elif len(cells) == len(header):
            yield Record(number, dict(zip(header, cells, strict=True)))
        else:
            yield Record(number, {}, f"{len(cells)} fields, the header has {len(header)}")


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise BadInput(f"{path}:1: the header is not CSV ({_reason(error)})") from error
    for name in header:
        if header.count(name) > 1:
            raise BadInput(f"{path}:1: two columns are called {name!r}; rename one")
    return header


def _refuse_other_delimiter(header: list[str], path: Path) -> None:
    """Refuse a header of one column that holds what separates columns elsewhere."""
    if len(header) != 1:
        return
    for other in _USUAL:
        if other in header[0]:
            name = "tab" if other == "\t" else other
            raise BadInput(
                f"{path}:1: the header is one column, {header[0]!r}, and seems to be separated by {other!r}; "
                f"give --delimiter={name!r}"
            )


def _reason(error: csv.Error) -> str:
    """What Python's reader says of quotes, as what a person has to look for."""
    text = str(error)
    if "unexpected end" in text:
        return "a quote opens in this row and is never closed"
    if "field larger" in text:
        return f"a field is longer than {csv.field_size_limit()} characters; is a quote open in this row?"
    if "expected after" in text:
        return f"{text}: a field that begins with a quote ends at the next; write quotes inside it twice"
    return text
