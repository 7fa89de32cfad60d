"""Rows of a task from the hub, the data root or the user's files, checked one by one before training."""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

from .. import world
from ..checks import require_numbers
from ..documents import refuse_more
from ..errors import BadInput, UnknownName, pick
from ..metrics import refuse_other_metrics
from ..tasks import (
    ABSENT,
    ENDINGS,
    FORMATS,
    LAYOUTS,
    SPLITS,
    Record,
    Source,
    Task,
    columns_of,
    gold,
    label_values,
    own_records,
    place_of,
    records,
    refuse_foreign,
    refuse_unregistered,
    text_fault,
    value_of,
)
from ._table import Rows, uncollected

logger = logging.getLogger("softprompt")

# The place of a split's rows for messages, and each row with its own place.
Placed = tuple[str, Iterable[tuple[str, Record]]]


@uncollected()
def load_rows(task: Task, data_root: str | Path | None = None, max_bad_rows: int = 0) -> dict[str, Rows]:
    """The task's rows by split, with the columns it reads: "train", "validation", "test" as far as there are.

    The lab makes its own; the user's files are read where the task names them; else
    `<data_root>/<folder>/<split>.jsonl.gz` (also .jsonl, .csv, .parquet); else the hub. Targets come in one type: a
    label as the task's value for its class, a number as float, a text as the list of accepted texts.

    Args:
        task: what to read.
        data_root: folder laid out as `glue/sst2/train.jsonl.gz`; None asks the hub.
        max_bad_rows: so many malformed rows, over all splits, are dropped and reported through the logger.

    Raises:
        UnknownName: a metric, or a column that no row has.
        BadInput: metrics of other answers, a preparation that is not registered, a missing, empty or damaged file, more
            malformed rows than allowed (the first is named as `file:line: what`), a negative number of them, or a hub
            that does not answer.
    """
    require_numbers({"max_bad_rows": max_bad_rows}, whole=True, zero=True)
    refuse_foreign(task)
    refuse_unregistered(task.prepare)
    refuse_other_metrics(task.answer, task.metrics, task.scores, labels=label_values(task))
    return rows_in(task, places_of(task, data_root), max_bad_rows)


@uncollected()
def rows_in(task: Task, places: Mapping[str, Placed], max_bad_rows: int | None = None) -> dict[str, Rows]:
    """The rows that are in these places, by split.

    Args:
        task: what to read.
        places: split -> where its rows are, as `places_of` finds them.
        max_bad_rows: as in `load_rows`; None allows none, where nobody can allow any.

    Raises:
        UnknownName: a column that no row has.
        BadInput: an empty or damaged file, or more malformed rows than allowed.
    """
    faults = _Faults()
    rows = {split: _checked(task, place, source, faults) for split, (place, source) in places.items()}
    faults.settle(max_bad_rows)
    for split, dataset in rows.items():
        if len(dataset) == 0:
            raise BadInput(f"task {task.name!r}: no usable rows in split {split!r}")
    return rows


@final
class _Faults:
    """The number of malformed rows so far, and the first messages about them."""

    def __init__(self):
        self.count, self.first = 0, ""

    def add(self, place: str, line: int, what: str) -> None:
        self.count += 1
        self.first = self.first or f"{place}:{line}: {what}"

    def settle(self, allowed: int | None) -> None:
        more = f" (and {self.count - 1} more malformed rows)" if self.count > 1 else ""
        if self.count > (allowed or 0):
            drop = "" if allowed is None else f", or drop with --max-bad-rows {self.count}"
            raise BadInput(f"{self.first}{more}; repair{drop}")
        if self.count:
            logger.warning("dropped %d malformed rows, the first: %s", self.count, self.first)


def places_of(task: Task, data_root: str | Path | None, only: str | None = None) -> dict[str, Placed]:
    """Split -> its rows.

    Args:
        task: what to read.
        data_root: as in `load_rows`.
        only: the one split of a published task that is looked for in a data root; None takes all.

    Raises:
        UnknownName: a column that no row of the hub has.
        BadInput: a missing file, or a hub that does not answer.
    """
    source = task.source
    if source.world:
        return {split: _placed(f"{task.name}/{split}", _lab_records(task, split)) for split in SPLITS}
    if source.is_own:
        return {split: (place_of(source, split), own_records(source, split)) for split in source.splits}
    splits = {split: name for split, name in published_splits(task).items() if only in (None, split)}
    if data_root is None:
        return _hub(task, splits)
    paths = {split: _path(Path(data_root), source.folder, name) for split, name in splits.items()}
    layout = pick("layout of rows", source.layout, LAYOUTS)
    return {split: _placed(str(path), layout(records(path))) for split, path in paths.items()}


def published_splits(task: Task) -> dict[str, str]:
    """Split -> what it is called in the published set; those that the set does not have are left out."""
    return {split: name for split in SPLITS if (name := getattr(task.source, split))}


def _placed(place: str, records: Iterable[Record]) -> Placed:
    return place, ((place, record) for record in records)


def _lab_records(task: Task, split: str) -> Iterator[Record]:
    for number, values in enumerate(world.rows(task.source.world, split, task.source.options), 1):
        yield Record(number, values)


def _path(root: Path, folder: str, split: str) -> Path:
    if not root.is_dir():
        raise BadInput(f"no folder {str(root)!r}; --data-root names the folder that holds {folder!r}")
    for ending in FORMATS:
        path = root / folder / f"{split}{ending}"
        if path.is_file():
            return Path(os.path.normpath(path))
    wanted = Path(os.path.normpath(root / folder / f"{split}.jsonl.gz"))
    raise BadInput(f"no file {str(wanted)!r}, nor as {ENDINGS}; check --data-root")


def _hub(task: Task, splits: Mapping[str, str]) -> dict[str, Placed]:
    # Imported here because the import takes a second, and local rows do not need it.
    import datasets

    source = task.source
    if not source.hub:
        raise BadInput(
            f"task {task.name!r} is not on the hub; give a folder with {source.folder!r} in it as --data-root"
        )
    place = f"{source.hub}/{source.config}"
    try:
        loaded: Any = datasets.load_dataset(source.hub, source.config, revision=source.revision)
    # Whatever the cause (network, hub, cache, an unknown set), the user is told what to do.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"cannot load {place!r} from the hub ({reason}); {_what_to_do(source, error)}, or give a folder with the "
            "rows as --data-root"
        ) from error
    by_split: dict[str, Placed] = {}
    for split, name in splits.items():
        if name not in loaded:
            raise BadInput(f"{place!r} has no split {name!r}, only {', '.join(loaded)}")
        by_split[split] = _placed(f"{place}/{name}", _hub_records(task, loaded[name], f"{place}/{name}"))
    return by_split


def _what_to_do(source: Source, error: Exception) -> str:
    from datasets.exceptions import DatasetNotFoundError

    if isinstance(error, DatasetNotFoundError):
        return f"{source.hub!r} may have moved, been renamed or been closed: look for it on the hub"
    if isinstance(error, ValueError) and "BuilderConfig" in str(error):
        return f"the set has no config {source.config!r} now: look for its new name on the hub"
    return "check the connection"


def _hub_records(task: Task, rows: Any, place: str) -> Iterator[Record]:
    needed = _needed(task)
    for column in (*needed, *task.source.where):
        if column not in rows.column_names:
            raise UnknownName("column", column, rows.column_names, place)
    for column, value in task.source.where.items():
        entries = list(rows[column])
        rows = rows.select([number for number, entry in enumerate(entries) if entry == value])
        if len(rows) == 0 and entries:
            held = ", ".join(sorted({repr(entry) for entry in entries})[:10])
            raise BadInput(
                f"{place!r} has no row whose {column!r} is {value!r}, only {held}; the set has changed: give a folder "
                "with the rows as --data-root"
            )
    for number, values in enumerate(rows.select_columns(list(needed)).to_list(), 1):
        yield Record(number, values)


def _needed(task: Task) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*task.columns, *task.extra_columns, task.target)))


def _checked(task: Task, whole: str, records: Iterable[tuple[str, Record]], faults: _Faults) -> Rows:
    texts, needed = (*task.columns, *task.extra_columns), _needed(task)
    columns: dict[str, list[Any]] = {name: [] for name in needed}
    lacking, seen = list(needed), dict[str, None]()
    numbers: list[tuple[str, int]] = []
    counts: Counter[str] = Counter()
    for place, record in records:
        counts[place] += 1
        if lacking and record.values:
            lacking = [name for name in lacking if value_of(record.values, name) is ABSENT]
            seen.update(dict.fromkeys(columns_of(record.values)))
        try:
            values = _usable(task, texts, record)
        except BadInput as error:
            faults.add(place, record.line, error.message)
            continue
        numbers.append((place, counts[place]))
        for name in needed:
            columns[name].append(values[name])
    if not counts:
        raise BadInput(f"{whole!r} is empty; at least one row is needed")
    if lacking and seen:
        if lacking[0] != task.target:
            raise UnknownName("column", lacking[0], seen, whole)
        unknown = UnknownName("column", lacking[0], seen)
        raise BadInput(
            f"{whole!r} holds no answers: {unknown.message} Give rows with answers, or use softprompt predict, which "
            "needs none"
        )
    return Rows(columns, [number if len(counts) == 1 else f"{place}#{number}" for place, number in numbers])


def _usable(task: Task, texts: tuple[str, ...], record: Record) -> dict[str, Any]:
    """The columns that the task reads, each in one type throughout the set."""
    if record.fault:
        raise BadInput(record.fault)
    values: dict[str, Any] = {}
    for name in (*texts, task.target):
        values[name] = value_of(record.values, name)
        if values[name] is ABSENT:
            raise BadInput(f"column {name!r} is missing")
    for name in texts:
        values[name] = _cell(name, values[name], blank=task.source.allows_blanks)
    if task.extra_columns:
        task.prepared(values)
    right = gold(task, values)
    for text in right if isinstance(right, list) else ():
        _refuse(task.target, text_fault(text))
    values[task.target] = label_values(task)[int(right)] if isinstance(right, int) else right
    return values


def _cell(name: str, value: Any, blank: bool) -> str:
    """A cell as text. `blank` lets empty texts pass: published sets have a few (QQP), the user's may not."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise BadInput(f"column {name!r} is empty")
    if not isinstance(value, str | int | float):
        raise BadInput(f"column {name!r} holds a {type(value).__name__}, text is needed")
    text = str(value)
    refuse_more("row_characters", len(text), f"column {name!r} holds {len(text)} characters")
    if not blank and not text.strip():
        raise BadInput(f"column {name!r} is empty")
    _refuse(name, text_fault(text))
    return text


def _refuse(name: str, fault: str) -> None:
    if fault:
        raise BadInput(f"column {name!r} holds {fault}")
