"""Splits into rows for training, for choosing the checkpoint and for the report, and few-shot draws. All are seeded."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import BadInput, UnknownName, pick
from ..tasks import SPLITS, Task
from ._table import Rows

SPLIT_SEED = 42


@dataclass(frozen=True)
class Splits:
    """Rows for training, rows that choose the best checkpoint, and rows for the reported score."""

    train: Rows
    validation: Rows
    test: Rows


def refuse_split(split: str) -> None:
    """Refuse an unknown name of a split.

    Raises:
        UnknownName: with the nearest.
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)


def rows_of(splits: Splits, split: str) -> Rows:
    """The rows of a split by its name.

    Raises:
        UnknownName: no such split.
    """
    refuse_split(split)
    return getattr(splits, split)


def split_rows(
    task: Task,
    rows: Mapping[str, Rows],
    seed: int = SPLIT_SEED,
    *,
    test_rows: int | None = None,
    instead: str = "give rows that are new, as in softprompt evaluate PROMPT --data FILE",
) -> Splits:
    """The splits of a task: by `own_splits` for the user's files, by `ept_splits` for a published set.

    Args:
        task: whose rows they are.
        rows: by split, as they were read.
        seed: of what is drawn.
        test_rows: the report keeps so many rows, drawn by seed 0 as `evaluate` draws them; None keeps all.
        instead: what a user can do about other rows than those of the training but to restore them.

    Raises:
        BadInput: too few rows, or test rows would be drawn from others than when the prompt of this task was trained.
    """
    if task.source.drawn:
        _refuse_other_rows(task, rows, instead)
    if task.source.grouped:
        splits = grouped_splits(rows, task.source.grouped, seed)
    else:
        splits = own_splits(rows, seed) if task.source.is_own else ept_splits(rows, seed)
    return splits if test_rows is None else replace(splits, test=limited(splits.test, test_rows))


def drawn_from(task: Task, rows: Mapping[str, Rows]) -> dict[str, str]:
    """A fingerprint of each column of the rows that the test rows of the user's files are drawn from.

    Empty where the test rows are a file of their own.
    """
    origin = rows.get("validation", rows.get("train"))
    if not task.source.files or "test" in rows or origin is None:
        return {}
    return {name: _fingerprint(values) for name, values in origin.columns.items()}


def _fingerprint(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps([str(value) for value in values]).encode()).hexdigest()[:16]


def _refuse_other_rows(task: Task, rows: Mapping[str, Rows], instead: str) -> None:
    # The columns of another template may be others.
    drawn, now = task.source.drawn, drawn_from(task, rows)
    if any(now.get(name, fingerprint) != fingerprint for name, fingerprint in drawn.items()):
        paths = ", ".join(path for split in task.source.splits for path in task.source.paths(split))
        raise BadInput(
            f"{paths} holds other rows than when this prompt was trained, so test rows drawn from it may have been "
            f"trained on; restore the file, or {instead}"
        )


def limited(rows: Rows, most: int, seed: int = 0) -> Rows:
    """The rows, or so many of them drawn by a seed, in their order."""
    return rows if len(rows) <= most else rows.select(limited_places(len(rows), most, seed))


def limited_places(count: int, most: int, seed: int = 0) -> list[int]:
    """The places of so many of `count` rows, drawn by a seed, in their order; all where there are no more."""
    if count <= most:
        return list(range(count))
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()[:most])


def ept_splits(rows: Mapping[str, Rows], seed: int = SPLIT_SEED) -> Splits:
    """Splits of a set whose test labels are hidden, by the number of training rows that are there.

    Below 10,000 the validation rows are halved: first half validation, rest test. From 10,000 to 100,000, 1,000
    training rows become the validation set and the validation rows the test set; above, 10,000 do (Explosive
    Prompt Tuning, appendix B.1). Rows are drawn by `torch.randperm` with this seed, the first part being the
    validation set, as in ATTEMPT. A set with test rows keeps them as its test set; where it has no validation rows,
    those are held out of the training rows in the same numbers.
    """
    reported = rows.get("test", rows.get("validation"))
    if reported is None or "train" not in rows or {"test", "validation"} <= rows.keys():
        return own_splits(rows, seed)
    train = rows["train"]
    if len(train) < 10_000:
        return own_splits(rows, seed)
    held_out, rest = _parted(train, 1_000 if len(train) <= 100_000 else 10_000, seed)
    return Splits(rest, held_out, reported)


def grouped_splits(rows: Mapping[str, Rows], column: str, seed: int = SPLIT_SEED) -> Splits:
    """Splits of a single set by the values of a column: a tenth of them validates, and a tenth is the test set.

    All rows of one value stay together, so that no context of a question is seen in training and asked about later.

    Raises:
        UnknownName: a column that the rows do not have.
        BadInput: fewer than three values.
    """
    train = _split(rows, "train")
    values = list(dict.fromkeys(pick("column", column, train.columns)))
    tenth = max(1, len(values) // 10)
    if len(values) < 3:
        raise BadInput(f"{len(values)} values in column {column!r} are too few to be parted in three; give more rows")
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed)).tolist()
    part = {values[place]: min(rank // tenth, 2) for rank, place in enumerate(order)}
    places: list[list[int]] = [[], [], []]
    for row, value in enumerate(train.columns[column]):
        places[part[value]].append(row)
    return Splits(*(train.select(places[number]) for number in (2, 0, 1)))


def own_splits(rows: Mapping[str, Rows], seed: int = SPLIT_SEED) -> Splits:
    """Splits of the user's files: those given are kept; what lacks is drawn from the others.

    No test file: the validation rows are halved. No validation file: a tenth of the training rows (at least one)
    validates. Neither: a tenth each. A test file alone leaves the other two empty.
    """
    if set(rows) == {"test"}:
        nothing = rows["test"].select([])
        return Splits(nothing, nothing, rows["test"])
    train = _split(rows, "train")
    tenth = max(1, len(train) // 10)
    if "validation" in rows and "test" in rows:
        return Splits(train, rows["validation"], rows["test"])
    if "validation" in rows:
        return Splits(train, *_parted(rows["validation"], len(rows["validation"]) // 2, seed))
    validation, rest = _parted(train, tenth, seed)
    if "test" in rows:
        return Splits(rest, validation, rows["test"])
    test, rest = _parted(rest, tenth, seed)
    return Splits(rest, validation, test)


def _split(rows: Mapping[str, Rows], name: str) -> Rows:
    if name not in rows:
        raise BadInput(f"no {name!r} split, only {', '.join(map(repr, rows))}; give a file for it")
    return rows[name]


def _parted(rows: Rows, size: int, seed: int) -> tuple[Rows, Rows]:
    if not 0 < size < len(rows):
        raise BadInput(f"{len(rows)} rows are too few to be parted in two; give more rows, or a file for each split")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return rows.select(order[:size]), rows.select(order[size:])


def strata(gold: Sequence[int | float | list[str]]) -> list[int]:
    """The class by which a few-shot draw is balanced: class ids, numbers by whether above 2.5, texts all one.

    2.5 is the middle of STS-B, as in DePT (Shi and Lipani, 2023, arXiv:2309.05173, train.py).
    """
    return [right if isinstance(right, int) else int(right > 2.5) if isinstance(right, float) else 0 for right in gold]


def few_shot(
    classes: Sequence[int], *, shots: int, seed: int, per_class: bool = False, names: Sequence[Any] = ()
) -> list[int]:
    """Row indices of a class-balanced draw, ascending.

    `shots` rows in total, `shots // c` of each of the c classes and any class for the remainder, as in DePT
    (train.py); with `per_class`, `shots` rows of each class.

    Args:
        classes: of each row.
        shots: rows, in total or of each class.
        seed: of the draw.
        per_class: whether so many are drawn of each class.
        names: what a class is called in messages, by its number; empty for its number.

    Raises:
        BadInput: a class with too few rows.
    """
    by_class = defaultdict(list)
    generator = torch.Generator().manual_seed(seed)
    for row in torch.randperm(len(classes), generator=generator).tolist():
        by_class[classes[row]].append(row)
    if shots < 1 or not by_class:
        raise BadInput(f"{shots} shots of {len(classes)} rows cannot be drawn; at least one is needed")
    each = shots if per_class else shots // len(by_class)
    for number, members in sorted(by_class.items()):
        if len(members) < each:
            name, option = repr(names[number]) if names else number, "--shots-per-class" if per_class else "--shots"
            raise BadInput(f"class {name} has {len(members)} rows, {each} are to be drawn; lower {option}")
    drawn = [row for members in by_class.values() for row in members[:each]]
    remainder = 0 if per_class else shots - len(drawn)
    rest = [row for members in by_class.values() for row in members[each:]]
    if len(rest) < remainder:
        raise BadInput(f"{shots} shots of {len(classes)} rows cannot be drawn; lower --shots")
    order = torch.randperm(len(rest), generator=generator).tolist()
    return sorted(drawn + [rest[i] for i in order[:remainder]])
