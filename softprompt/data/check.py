"""What is there of a published task, and whether it is what it should be: rows, labels, lengths, leaks."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SoftPromptError
from ..tasks import OFFICIAL_ROWS, SPLITS, Task
from ._rows import places_of, rows_in
from ._table import Rows

Length = Callable[[str], int]


@dataclass(frozen=True)
class TaskCheck:
    """What was found of a task.

    Args:
        task: its name.
        fault: why its rows cannot be read; empty where they can.
        is_there: whether rows were found, readable or not.
        rows: split -> rows, before anything is held out.
        official: split -> rows of the published set, as far as they are known.
        labels: label word -> its share of the training rows, in 0..1; empty where answers are no labels.
        overlap: validation and test rows whose text also stands in the training rows.
        too_long: share of the training rows that are longer than the task reads, in 0..1; None without a tokenizer.
        metrics: what the task is scored by.
    """

    task: str
    fault: str
    is_there: bool
    rows: dict[str, int]
    official: dict[str, int]
    labels: dict[str, float]
    overlap: int
    too_long: float | None
    metrics: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every split is there with the rows of the published set."""
        return not self.fault and all(self.rows.get(split) == count for split, count in self.official.items())


def check_task(task: Task, data_root: str | Path | None = None, length: Length | None = None) -> TaskCheck:
    """Check the rows of a task; rows that cannot be read are told of in the result, not raised.

    Args:
        task: what to check.
        data_root: as in `load_rows`.
        length: the tokens of a text; None leaves `too_long` out.
    """
    sizes = zip(SPLITS, OFFICIAL_ROWS.get(task.name, (None, None, None)), strict=True)
    official = {split: count for split, count in sizes if count is not None}
    places = {}
    try:
        places = places_of(task, data_root)
        rows = rows_in(task, places)
    except SoftPromptError as error:
        return TaskCheck(task.name, error.message, bool(places), {}, official, {}, 0, None, task.metrics)
    texts = {split: _texts(task, part) for split, part in rows.items()}
    train = texts.get("train", [])
    known = set(train)
    return TaskCheck(
        task=task.name,
        fault="",
        is_there=True,
        rows={split: len(part) for split, part in rows.items()},
        official=official,
        labels=_shares(task, rows.get("train")),
        overlap=sum(text in known for split, part in texts.items() if split != "train" for text in part),
        too_long=None if length is None or not train else sum(length(t) > task.max_length for t in train) / len(train),
        metrics=task.metrics,
    )


def _texts(task: Task, rows: Rows) -> list[str]:
    return [task.render(row).text for row in rows]


def _shares(task: Task, rows: Rows | None) -> dict[str, float]:
    if rows is None or task.answer != "label":
        return {}
    counts: Counter[Any] = Counter(map(str, rows.columns[task.target]))
    values = task.label_values or tuple(range(len(task.labels)))
    return {word: counts[str(value)] / len(rows) for word, value in zip(task.labels, values, strict=True)}
