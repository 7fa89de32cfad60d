"""Rows given in memory: kept beside their task while the program runs; stored are their number and a hash."""

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, final

from ..checks import plain
from ..errors import BadInput, UnknownName
from ._records import ABSENT, Record, columns_of, value_of


@final
class MemoryRows:
    """The rows of a split, as far as the task reads them.

    Args:
        count: how many rows.
        sha256: of their values in the columns that the task reads, in their order.
        rows: values by column; None where a stored task tells count and hash only.
    """

    def __init__(self, count: int, sha256: str, rows: Sequence[Mapping[str, Any]] | None = None):
        self.count, self.sha256, self.rows = count, sha256, rows

    @classmethod
    def of(cls, given: Any, columns: Iterable[str]) -> "MemoryRows":
        """The columns that a task reads, of rows as a user holds them.

        Args:
            given: dicts in a list, a pandas DataFrame, a `datasets.Dataset` or a `pyarrow.Table`.
            columns: names, fields inside objects by their dots.

        Raises:
            BadInput: something else, or a row that is no dict.
            UnknownName: a column that no row has.
        """
        columns = tuple(dict.fromkeys(columns))
        row_values = row_dicts(given)
        for number, row in enumerate(row_values, 1):
            if not isinstance(row, Mapping):
                raise BadInput(f"row {number} is a {type(row).__name__}; give each row as a dict of its columns")
        rows = [{c: v for c in columns if (v := value_of(row, c)) is not ABSENT} for row in row_values]
        for column in columns:
            if rows and not any(column in row for row in rows):
                raise UnknownName("column", column, {name for row in row_values for name in columns_of(row)})
        rows = [{name: plain_cell(value) for name, value in row.items()} for row in rows]
        return cls(len(rows), _fingerprint(rows), rows)

    def records(self) -> Iterator[Record]:
        """The rows, counted from 1.

        Raises:
            BadInput: they are not in this program.
        """
        if self.rows is None:
            raise BadInput(
                f"these {self.count} rows were given in memory and are not stored; give them again, in Python as the "
                "rows of evaluate or resume, elsewhere as a file: softprompt evaluate PROMPT --data FILE"
            )
        return (Record(number, row) for number, row in enumerate(self.rows, 1))

    def relabelled(self, column: str, values: Mapping[Any, Any]) -> "MemoryRows":
        """The rows with other values in a column; those that are not in `values` stay."""
        rows = [
            {name: values.get(value, value) if name == column else value for name, value in row.items()}
            for row in self.rows or ()
        ]
        return MemoryRows(len(rows), _fingerprint(rows), rows)

    def to_json(self) -> dict[str, Any]:
        """Count and hash."""
        return {"rows": self.count, "sha256": self.sha256}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "MemoryRows":
        """What `to_json` wrote: the rows themselves are elsewhere."""
        return cls(values["rows"], values["sha256"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MemoryRows) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        return f"MemoryRows({self.count} rows, {self.sha256[:12]})"

    def __deepcopy__(self, memo: Any) -> "MemoryRows":
        # dataclasses.asdict copies deeply, and rows may be millions.
        return self


def holds_rows(given: Any) -> bool:
    """Whether something is rows in memory: a table, or a list of anything but paths."""
    if isinstance(given, list | tuple):
        return bool(given) and all(isinstance(row, Mapping) for row in given)
    return is_a(given, "pandas", "DataFrame") or is_a(given, "datasets", "Dataset") or is_a(given, "pyarrow", "Table")


def row_dicts(given: Any) -> Sequence[Any]:
    """The rows of a table, or of a list, as dicts.

    Raises:
        BadInput: neither.
    """
    if is_a(given, "pandas", "DataFrame"):
        if given.columns.nlevels > 1 or not given.columns.is_unique:
            raise BadInput("a DataFrame needs one name for each column, every name once; rename its columns")
        return given.to_dict("records")
    if is_a(given, "datasets", "Dataset"):
        return given.to_list()
    if is_a(given, "pyarrow", "Table"):
        return given.to_pylist()
    if isinstance(given, list | tuple):
        return given
    raise BadInput(
        f"rows are a list of dicts, a pandas DataFrame, a datasets.Dataset, or a file, not a {type(given).__name__}"
    )


def is_a(given: Any, module: str, kind: str) -> bool:
    """Whether a value is of a library's class; a library that nobody has imported made no value."""
    loaded_kind = getattr(sys.modules.get(module), kind, None)
    return isinstance(loaded_kind, type) and isinstance(given, loaded_kind)


def plain_cell(value: Any) -> Any:
    """A cell as JSON has it: numpy's values as Python's, and None for what pandas writes where a value is missing."""
    value = plain(value)
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if value is None or isinstance(value, str | int):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if type(value).__module__ == "numpy":
        return plain_cell(value.tolist())
    if isinstance(value, Mapping):
        return {name: plain_cell(inner) for name, inner in value.items()}
    return [plain_cell(inner) for inner in value] if isinstance(value, list | tuple) else value


def _fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        # A column that is empty here and missing there, and 1 and 1.0, are the same to the task.
        values = {name: _spelled(value) for name, value in row.items() if value is not None}
        digest.update(json.dumps(values, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _spelled(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
