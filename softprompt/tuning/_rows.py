"""Which rows a search learns from, chooses by and reports on, as files of its own folder.

OUTPUT/rows/0/train.jsonl       what candidates are trained on; with cross-validation 0, 1, 2 ... are the folds
OUTPUT/rows/0/choosing.jsonl    what they are compared on
OUTPUT/rows/report.jsonl        what nothing is chosen by
OUTPUT/rows/files.json          the size and SHA-256 of these files
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import SPLIT_SEED, Rows, Splits, limited, split_rows
from ..documents import entry
from ..errors import BadInput
from ..store import write_file
from ..tasks import Source, Task, gold
from ._kept import field_bytes

# Below so many rows, every row but those of the report is chosen by in turn.
FEW_ROWS = 200
FOLDS = 4
# Where the user gave no such rows: the share that is held out for each purpose.
HELD_OUT, HELD_OUT_OF_FEW = 0.2, 0.3
# More rows than these say little more, and cost a forward pass at each evaluation.
MOST_CHOOSING, MOST_REPORTED = 300, 1000
# Rows that stand in for the test split while nothing may see the report rows.
GLANCE = 16
FEWEST = 20
LISTED = "rows/files.json"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The rows of a search by purpose.

    Args:
        folds: rows for training and rows for choosing, once, or of each fold.
        report: rows for the final scores.
    """

    folds: Sequence[tuple[Rows, Rows]]
    report: Rows


def parted(task: Task, rows: Mapping[str, Rows], test_rows: int | None = None) -> Parts:
    """The rows of a task by purpose: splits that the user gave stay, what lacks is drawn by a fixed seed.

    Args:
        task: what is answered.
        rows: by split.
        test_rows: the most that the report may have; None leaves it at MOST_REPORTED.

    Raises:
        BadInput: fewer rows than a search can part.
    """
    total = sum(map(len, rows.values()))
    if total < FEWEST:
        raise BadInput(f"{total} rows are too few to search with; give at least {FEWEST}, or use `softprompt train`")
    splits = _own_splits(task, rows, total) if task.source.is_own else split_rows(task, rows)
    report = limited(splits.test, min(MOST_REPORTED, test_rows or MOST_REPORTED))
    if not _are_few(rows, total):
        return Parts(folds=[(splits.train, limited(splits.validation, MOST_CHOOSING))], report=report)
    return Parts(folds=_folds(task, _joined(splits.train, splits.validation)), report=report)


def _are_few(rows: Mapping[str, Rows], total: int) -> bool:
    """Whether what could be held out for choosing says too little.

    Rows that the user gave for the report do not count: 64 rows beside a test split of 872 would leave 13 to choose by.
    Where the user gave rows for choosing, those are meant.
    """
    is_report_apart = "test" in rows and "validation" not in rows
    return total - (len(rows["test"]) if is_report_apart else 0) < FEW_ROWS


def _own_splits(task: Task, rows: Mapping[str, Rows], total: int) -> Splits:
    """The user's splits; a fifth of the rows for each purpose that has none, and more for the report of few."""
    train = rows["train"]
    report, validation = rows.get("test"), rows.get("validation")
    if report is None:
        train, report = _drawn(task, train, HELD_OUT if total >= FEW_ROWS else HELD_OUT_OF_FEW)
    if validation is None:
        train, validation = _drawn(task, train, HELD_OUT)
    return Splits(train, validation, report)


def _drawn(task: Task, rows: Rows, share: float) -> tuple[Rows, Rows]:
    """The rows without some, and those, drawn with the same share of each class where every class has enough."""
    from sklearn.model_selection import train_test_split

    classes = _strata(task, rows)
    left, drawn = train_test_split(
        range(len(rows)), test_size=share, random_state=SPLIT_SEED, stratify=classes if _is_even(classes, 5) else None
    )
    return rows.select(sorted(left)), rows.select(sorted(drawn))


def _folds(task: Task, rows: Rows) -> list[tuple[Rows, Rows]]:
    from sklearn.model_selection import KFold, StratifiedKFold

    classes = _strata(task, rows)
    kind: Any = StratifiedKFold if _is_even(classes, FOLDS) else KFold
    parts = kind(FOLDS, shuffle=True, random_state=SPLIT_SEED).split(range(len(rows)), classes)
    return [(rows.select(train.tolist()), rows.select(choosing.tolist())) for train, choosing in parts]


def _strata(task: Task, rows: Rows) -> list[int]:
    return [value if isinstance(value := gold(task, row), int) else 0 for row in rows]


def _is_even(classes: Sequence[int], least: int) -> bool:
    """Whether every class has so many rows that each part gets one."""
    return min(map(classes.count, set(classes))) >= least


def _joined(first: Rows, second: Rows) -> Rows:
    return Rows({name: [*values, *second.columns[name]] for name, values in first.columns.items()})


def written(task: Task, parts: Parts, folder: Path) -> list[Task]:
    """The task on the rows of each fold, whose test rows are a glance at the choosing rows, as files.

    Args:
        task: as a model is asked it.
        parts: the rows.
        folder: of the search.
    """
    files = {"report.jsonl": _lines(parts.report)}
    for number, (train, choosing) in enumerate(parts.folds):
        files[f"{number}/train.jsonl"] = _lines(train)
        files[f"{number}/choosing.jsonl"] = _lines(choosing)
        files[f"{number}/glance.jsonl"] = _lines(choosing.select(range(min(GLANCE, len(choosing)))))
    for name, content in files.items():
        write_file(folder / "rows" / name, content, what="the rows of a search", replace=True)
    listed = field_bytes({"files": {name: entry(content) for name, content in files.items()}})
    write_file(folder / LISTED, listed, what="the rows of a search", replace=True)
    return [on_files(task, folder, number) for number in range(len(parts.folds))]


def on_files(task: Task, folder: Path, fold: int, test: str | None = None) -> Task:
    """The task on the files of a fold.

    Args:
        task: as a model is asked it.
        folder: of the search.
        fold: which.
        test: the file of its test rows; None is the glance.
    """
    fold_folder = folder.absolute() / "rows" / f"{fold}"
    files = {
        "train": str(fold_folder / "train.jsonl"),
        "validation": str(fold_folder / "choosing.jsonl"),
        "test": str(fold_folder / "glance.jsonl") if test is None else str(fold_folder.parent / test),
    }
    return dataclasses.replace(task, source=Source(files=files, blanks=task.source.allows_blanks))


def _lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
