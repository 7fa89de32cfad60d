"""Rows of JSON: one object a line, an array of objects, or an object of rows by id."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..documents import Repeated, once
from ..errors import BadInput
from ._records import Record

# Walking through a row takes a call for each level.
DEEPEST = 40


def json_lines(stream: Iterable[str], path: Path) -> Iterator[Record]:
    """The rows of a JSON Lines file; blank lines are skipped.

    Raises:
        BadInput: the file begins as one JSON array.
    """
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        if number == 1 and (line.strip() == "[" or line.replace(" ", "").startswith("[{")):
            raise BadInput(f"{path}:1: this is a JSON array, not one object a line; call the file .json")
        try:
            values = json.loads(line.rstrip("\n"), object_pairs_hook=once)
        except Repeated as error:
            yield Record(number, {}, f"{error} stands twice in this row")
            continue
        except (ValueError, RecursionError) as error:
            yield Record(number, {}, f"not JSON ({_reason(error)})")
            continue
        yield _record(number, values)


def json_document(stream: io.TextIOBase, path: Path) -> Iterator[Record]:
    """The rows of a JSON array, or of an object `{id: row}`, whose ids become the column `id` where rows have none.

    A file of one object a line is read as JSON Lines.

    Raises:
        BadInput: the file is not JSON, or another kind of table.
    """
    text = stream.read()
    try:
        values = json.loads(text, object_pairs_hook=once)
    except Repeated as error:
        raise BadInput(f"{str(path)!r}: {error} stands twice in one object; rename or remove one of them") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from json_lines(io.StringIO(text), path)
            return
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadInput(f"{path}{line}: not JSON ({_reason(error)})") from error
    for number, row in enumerate(_rows(values, path), 1):
        yield _record(number, row)


def _rows(values: Any, path: Path) -> Iterable[Any]:
    if isinstance(values, list):
        return values
    if not isinstance(values, Mapping):
        raise BadInput(f"{str(path)!r} holds no rows; give an array of objects, or an object of rows by id")
    rows = list(values.values())
    if rows and all(isinstance(row, Mapping) for row in rows):
        _refuse_columns(values, path)
        return [{"id": key, **row} for key, row in values.items()]
    if any(isinstance(row, list) for row in rows):
        raise BadInput(
            f"{str(path)!r} holds an object of {_few(values)}, some of them arrays; give one array of rows, as pandas' "
            'to_json(orient="records") writes it'
        )
    # One object, as a file of one object a line has it.
    return [values]


def _refuse_columns(values: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Refuse a table by columns, which looks like an object of rows by id: pandas' `to_json` writes it so."""
    if all(inner and all(name.isdecimal() for name in inner) for inner in values.values()):
        raise BadInput(
            f"{str(path)!r} is a table by columns ({_few(values)}), not by rows; write it with pandas' "
            'to_json(orient="records")'
        )


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:3])) + (" ..." if len(names) > 3 else "")


def _record(number: int, values: Any) -> Record:
    if not isinstance(values, dict):
        return Record(number, {}, "not a JSON object")
    return (
        Record(number, {}, f"nested more than {DEEPEST} deep") if _is_deep(values, DEEPEST) else Record(number, values)
    )


def _is_deep(value: Any, left: int) -> bool:
    """Whether a value holds more levels than are left."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return left == 0 or any(_is_deep(each, left - 1) for each in inner)


def _reason(error: Exception) -> str:
    return f"{error.msg}: column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too large or too deep"
