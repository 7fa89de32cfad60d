"""Files of rows: which there are, how each is opened, and its rows one by one. No torch here."""

import glob
import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ._delimited import delimited
from ._delimited import delimiter_of as delimiter_of
from ._json import json_document, json_lines
from ._records import Record

# In the order in which a data root is searched.
_KINDS = (".jsonl", ".csv", ".tsv", ".json", ".ndjson")
FORMATS = (*(kind + packed for kind in _KINDS for packed in ("", ".gz", ".zst")), ".parquet")
ENDINGS = f"{', '.join(_KINDS)} (each also .gz or .zst) and .parquet"
# How much of a file is looked at for what it is.
_BEGINNING = 512
_ENCODED = (b"\xff\xfe", b"\xfe\xff")
_ZIPPED = b"PK\x03\x04"


def format_of(path: Path) -> str:
    """The format that the file's name says.

    Raises:
        BadInput: another ending.
    """
    for ending in FORMATS:
        if path.name.lower().endswith(ending):
            return ending
    raise BadInput(f"cannot tell the format of {str(path)!r} by its name; known endings: {ENDINGS}")


def is_data_file(name: str) -> bool:
    """Whether a task's name is really a file of rows, there or misspelt."""
    return name.lower().endswith(FORMATS) or Path(name).is_file()


def paths_of(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """The files that a path, a glob or several of them stand for, each glob's sorted by name.

    Raises:
        BadInput: a glob that no file matches, or no path at all.
    """
    paths = [given] if isinstance(given, str | Path) else list(given)
    if not paths:
        raise BadInput("no file of rows; give at least one")
    return tuple(file for path in paths for file in _matching(str(path)))


def _matching(path: str) -> list[str]:
    # Unlike Path's own, it leaves a path as it is for a user without a home folder.
    path = os.path.expanduser(path)
    # A file may have brackets in its name.
    if not glob.has_magic(path) or Path(path).exists():
        return [path]
    matching = sorted(glob.glob(path, recursive=True))
    if not matching:
        raise BadInput(f"no file matches {path!r}")
    return matching


def records(path: Path, delimiter: str = "") -> Iterator[Record]:
    """The rows of a file; blank lines are skipped.

    Args:
        path: CSV, TSV, JSON or JSON Lines (all also .gz or .zst), or Parquet.
        delimiter: what separates the fields of CSV or TSV; empty is "," or the tab, as the name says.

    Raises:
        BadInput: no such file, an unknown format, or a file that is damaged or of another kind as a whole.
    """
    ending = format_of(path)
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}")
    if delimiter and not ending.startswith((".csv", ".tsv")):
        raise BadInput(f"a delimiter separates the fields of CSV and TSV; {str(path)!r} has none, leave it out")
    try:
        if ending == ".parquet":
            yield from _parquet(path)
            return
        with _opened(path, ending) as stream:
            yield from _read(stream, path, ending, delimiter)
    except (EOFError, zlib.error, OSError) as error:
        raise BadInput(f"cannot read {str(path)!r}: {error}; the file is damaged or not readable") from error


def _read(stream: io.TextIOBase, path: Path, ending: str, delimiter: str) -> Iterator[Record]:
    if ending.startswith((".csv", ".tsv")):
        usual = "," if ending.startswith(".csv") else "\t"
        return delimited(stream, path, delimiter_of(delimiter or usual), given=bool(delimiter))
    is_lines = ending.startswith((".jsonl", ".ndjson"))
    return json_lines(stream, path) if is_lines else json_document(stream, path)


def _opened(path: Path, ending: str) -> io.TextIOWrapper:
    binary = _unpacked(path, ending)
    try:
        _refuse_other_kinds(binary.peek(_BEGINNING)[:_BEGINNING], path)
    except BaseException:
        binary.close()
        raise
    # csv splits lines itself, so that a quoted field may hold line ends.
    newline = "" if ending.startswith((".csv", ".tsv")) else None
    # Undecodable bytes become lone surrogates, so both are found by one check (text_fault), with their line.
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _unpacked(path: Path, ending: str) -> gzip.GzipFile | io.BufferedReader:
    if ending.endswith(".gz"):
        return gzip.open(path, "rb")
    if ending.endswith(".zst"):
        # Imported here: few rows are packed so, and the import takes longer than most files.
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _refuse_other_kinds(beginning: bytes, path: Path) -> None:
    """Refuse what other programs write under the same name: text in UTF-16, and workbooks."""
    if beginning.startswith(_ZIPPED):
        raise BadInput(f"{str(path)!r} is a zip archive or a workbook; save its sheet as CSV in UTF-8")
    # Letters are two bytes each in UTF-16, one of them 0 in most scripts of the West.
    if beginning.startswith(_ENCODED) or beginning.count(0) > len(beginning) / 4:
        raise BadInput(f"{str(path)!r} is UTF-16 (or UTF-32), UTF-8 is needed; save it as UTF-8, as iconv does")


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        # Group by group, so that a file may be larger than the memory.
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise BadInput(f"{str(path)!r} has column {repeated[0]!r} twice; rename or remove one of them")
            for batch in file.iter_batches():
                for values in _rows_of(batch):
                    number += 1
                    yield Record(number, values)
    except pyarrow.ArrowException as error:
        raise BadInput(f"cannot read {str(path)!r} as Parquet: {str(error).splitlines()[0]}") from error


def _rows_of(batch: Any) -> Iterable[Mapping[str, Any]]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):
        names, columns = batch.schema.names, batch.columns
        return (
            {name: _cell(column[row]) for name, column in zip(names, columns, strict=True)}
            for row in range(batch.num_rows)
        )


def _cell(cell: Any) -> Any:
    """A value of a batch that Python cannot hold whole; None for a time that it has no name for."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        # As in a file of text, so that the row is named where its column is read.
        return (
            cell.as_buffer().to_pybytes().decode(errors="surrogateescape") if hasattr(cell, "as_buffer") else "\udcff"
        )
    except (ValueError, OverflowError):
        return None
