"""Rows of CSV that every reader takes apart as they were put together."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

_END = "\r\n"


def csv_lines(rows: Iterable[Iterable[Any]], delimiter: str = ",") -> Iterator[str]:
    """A line for each row of cells, with its end."""
    text = io.StringIO()
    # It quotes what holds a character of its ends of lines, and a reader takes a lone "\r" for one.
    writer = csv.writer(text, delimiter=delimiter, lineterminator=_END)
    for cells in rows:
        writer.writerow(cells)
        yield text.getvalue().removesuffix(_END) + "\n"
        text.seek(0)
        text.truncate()


def csv_table(rows: Iterable[Iterable[Any]]) -> str:
    """The lines of a table that people open in a spreadsheet: no text in it is taken for a formula."""
    return "".join(csv_lines([_harmless(cell) for cell in cells] for cells in rows))


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
