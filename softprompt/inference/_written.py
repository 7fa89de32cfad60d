"""Rows of answers written as JSON Lines, CSV, TSV or Parquet, row by row, and then renamed into their place."""

import contextlib
import gzip
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..documents import csv_lines
from ..errors import BadInput

TEXTS = (".jsonl", ".csv", ".tsv")
ENDINGS = (*(kind + packed for kind in TEXTS for packed in ("", ".gz", ".zst")), ".parquet")
# Rows of one group in a Parquet file.
GROUP = 10_000

Row = Mapping[str, Any]


def refuse_no_format(path: Path) -> str:
    """The format that the name of an output says.

    Raises:
        BadInput: another ending.
    """
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return ending
    raise BadInput(f"cannot tell the format of {str(path)!r} by its name; endings: {', '.join(ENDINGS)}")


def write_rows(path: Path, rows: Callable[[], Iterator[Row]], *, numbered: bool) -> None:
    """Write all rows, the columns of the first one in its order; the file is whole or not there.

    Args:
        path: the file.
        rows: gives the rows from the beginning.
        numbered: whether their first column is their number; a kept one is any value.
    """
    ending = refuse_no_format(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if ending == ".parquet":
            _write_parquet(temporary, rows(), numbered)
        else:
            with _packed(temporary, ending) as stream:
                for line in _lines(rows(), ending):
                    stream.write(line.encode())
        # The journal that the rows come from is removed next, so they have to outlast a loss of power.
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _lines(rows: Iterator[Row], ending: str) -> Iterator[str]:
    if ending.startswith(".jsonl"):
        yield from (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return
    first = next(rows)
    cells = itertools.chain([first, first.values()], (row.values() for row in rows))
    yield from csv_lines(cells, "," if ending.startswith(".csv") else "\t")


@contextlib.contextmanager
def _packed(path: Path, ending: str) -> Iterator[Any]:
    """A stream of bytes, compressed as the ending says."""
    if ending.endswith(".zst"):
        import pyarrow

        with pyarrow.output_stream(str(path), compression="zstd") as stream:
            yield stream
    elif ending.endswith(".gz"):
        # Without a name and a time, so that equal answers are equal bytes.
        with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
            yield stream
    else:
        with path.open("wb") as stream:
            yield stream


def _write_parquet(path: Path, rows: Iterator[Row], numbered: bool) -> None:
    """Groups of rows. A kept column is text, because its later values may be of another kind than its first."""
    import pyarrow
    from pyarrow import parquet

    first = next(rows)
    kinds = {str: pyarrow.string(), float: pyarrow.float64()}
    identity, *names = first
    fields = [(name, kinds.get(type(first[name]), pyarrow.string())) for name in names]
    fields.insert(0, (identity, pyarrow.int64() if numbered else pyarrow.string()))
    schema, whole = pyarrow.schema(fields), itertools.chain([first], rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(whole, GROUP)):
            if not numbered:
                group = [{**row, identity: None if row[identity] is None else str(row[identity])} for row in group]
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
