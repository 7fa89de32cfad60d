"""What is there of a published task, and whether it is what it should be: rows, labels, lengths, leaks."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SoftPromptError
from ..tasks import OFFICIAL_ROWS, SPLITS, Task, label_values
from ._rows import places_of, published_splits, rows_in
from ._table import Rows

Length = Callable[[str], int]


@dataclass(frozen=True)
class TaskCheck:
    """What was found of a task.

    Args:
        task: its name.
        faults: split -> why its rows cannot be read; empty where all can.
        is_there: whether rows were found, readable or not.
        rows: split -> rows, before anything is held out.
        official: split -> rows of the published set, as far as they are known.
        labels: label word -> its share of the training rows, in 0..1; empty where answers are no labels.
        overlap: validation and test rows whose text also stands in the training rows; None without those.
        too_long: share of the training rows that are longer than the task reads, in 0..1; None without a tokenizer.
        metrics: what the task is scored by.
    """

    task: str
    faults: dict[str, str]
    is_there: bool
    rows: dict[str, int]
    official: dict[str, int]
    labels: dict[str, float]
    overlap: int | None
    too_long: float | None
    metrics: tuple[str, ...]

    @property
    def fault(self) -> str:
        """Why the first split that cannot be read cannot; empty where all can."""
        return next(iter(self.faults.values()), "")

    @property
    def is_complete(self) -> bool:
        """Whether every split is there with the rows of the published set."""
        return not self.faults and all(self.rows.get(split) == count for split, count in self.official.items())


def check_task(task: Task, data_root: str | Path | None = None, length: Length | None = None) -> TaskCheck:
    """Check the rows of a task; rows that cannot be read are told of in the result, not raised.

    Args:
        task: what to check.
        data_root: as in `load_rows`.
        length: the tokens of a text; None leaves `too_long` out.
    """
    sizes = zip(SPLITS, OFFICIAL_ROWS.get(task.name, (None, None, None)), strict=True)
    official = {split: count for split, count in sizes if count is not None}
    rows, faults, is_there = _read(task, data_root)
    texts = {split: _texts(task, part) for split, part in rows.items()}
    train = texts.get("train", [])
    known = set(train)
    return TaskCheck(
        task=task.name,
        faults=faults,
        is_there=is_there,
        rows={split: len(part) for split, part in rows.items()},
        official=official,
        labels=_shares(task, rows.get("train")),
        overlap=sum(text in known for split, part in texts.items() if split != "train" for text in part)
        if known
        else None,
        too_long=None if length is None or not train else sum(length(t) > task.max_length for t in train) / len(train),
        metrics=task.metrics,
    )


def _read(task: Task, data_root: str | Path | None) -> tuple[dict[str, Rows], dict[str, str], bool]:
    """The rows of each split, why others cannot be read, and whether there are any rows, readable or not."""
    rows: dict[str, Rows] = {}
    faults: dict[str, str] = {}
    is_there = False
    # Files lie apart; of the hub a set is loaded as a whole.
    parts: list[str | None] = [None] if data_root is None or task.source.world else list(published_splits(task))
    for part in parts:
        try:
            places = places_of(task, data_root, part)
        except SoftPromptError as error:
            faults |= dict.fromkeys(published_splits(task) if part is None else [part], error.message)
            continue
        for split, place in places.items():
            is_there = True
            try:
                rows |= rows_in(task, {split: place})
            except SoftPromptError as error:
                faults[split] = error.message
    return rows, faults, is_there


def _texts(task: Task, rows: Rows) -> list[str]:
    return [task.render(row).text for row in rows]


def _shares(task: Task, rows: Rows | None) -> dict[str, float]:
    if rows is None or task.answer != "label":
        return {}
    counts: Counter[Any] = Counter(map(str, rows.columns[task.target]))
    pairs = zip(task.labels, label_values(task), strict=True)
    return {word: counts[str(value)] / len(rows) for word, value in pairs}
