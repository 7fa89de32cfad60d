"""The rows of one split, whole or a seeded part of it."""

import dataclasses
from pathlib import Path

from ..errors import BadInput
from ..tasks import Task
from ._rows import load_rows
from ._splits import limited, refuse_split, rows_of, split_rows
from ._table import Rows


def drawn_rows(
    task: Task,
    data_root: str | Path | None = None,
    max_bad_rows: int = 0,
    *,
    split: str = "test",
    count: int | None = None,
    seed: int = 0,
    id_column: str | None = None,
) -> tuple[Rows, int | None]:
    """The rows of a split; or `count` of them in their order, and how many there are.

    Args:
        task: what to read.
        data_root: as in `load_rows`.
        max_bad_rows: as in `load_rows`.
        split: "train", "validation" or "test".
        count: rows to draw; None, or more than there are, is all of them.
        seed: of the draw.
        id_column: a column that is read besides, as text.

    Raises:
        UnknownName: no such split or column.
        BadInput: rows that cannot be used, or fewer than one to draw.
    """
    refuse_split(split)
    if count is not None and count < 1:
        raise BadInput(f"at least one row has to be drawn, not {count}")
    if id_column is not None:
        # The column is read with every row, like the columns of a preparation; the template does not show it.
        task = dataclasses.replace(task, extra_columns=(*task.extra_columns, id_column))
    rows = rows_of(split_rows(task, load_rows(task, data_root, max_bad_rows)), split)
    if not len(rows):
        raise BadInput(f"task {task.name!r} has no {split} rows; choose another split")
    if count is None or count >= len(rows):
        return rows, None
    return limited(rows, count, seed), len(rows)
