"""A task made of the user's own files: which columns are read, and what the answers are called."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnknownName
from ._base import MASK, Answer, Source, Task
from ._files import Record, records, text_fault
from ._numbers import decimals_of

Files = str | Path | Mapping[str, str | Path]
SPLITS = ("train", "validation", "test")
# More distinct values than this in a label column are free text or numbers, not classes.
MOST_LABELS = 500
# What is measured where nothing else is asked for.
DEFAULT_METRICS: dict[Answer, tuple[str, ...]] = {
    "label": ("accuracy", "macro-f1"),
    "number": ("pearson", "spearman", "rmse", "mae"),
    "text": ("squad-f1", "exact-match"),
}


def custom_task(
    files: Files,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    number_column: str | None = None,
    target_column: str | None = None,
    template: str | None = None,
    label_words: Mapping[Any, str] | Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    name: str | None = None,
    max_length: int = 256,
) -> Task:
    """A task of the user's CSV, JSONL (also .gz) or Parquet files.

    Args:
        files: the training file, or split -> file for "train", "validation" and "test".
        text_columns: what the model reads; may be left out if a template names them.
        label_column: holds one of a few labels; they are read from the training file.
        number_column: holds a number; the decimals of a written answer follow from the training file's numbers.
        target_column: holds free text (or, in JSONL and Parquet, a list of accepted texts).
        template: text with {column} fields; one text column stands alone, several as "column: {column} ...". {mask} is
            where a masked-LM head answers.
        label_words: what the model answers, by label or in the order of the sorted labels; default the labels.
        metrics: names in METRICS, the first of which is the score; default accuracy, macro-f1 for labels, pearson,
            spearman, rmse, mae for numbers, squad-f1, exact-match for text.
        name: default "custom/" and the training file's name.
        max_length: tokens of the rendered text, special tokens included, the prompt not.

    Raises:
        UnknownName: a split or column that does not exist.
        BadInput: no or two answer columns, unusable files, fewer than two labels or numbers, empty or equal label
            words.
    """
    paths = _paths(files)
    answer, target = _answer(label_column, number_column, target_column)
    values: tuple[Any, ...] = ()
    words: tuple[str, ...] = ()
    decimals = None
    first = Path(paths.get("train") or next(iter(paths.values())))
    if answer == "label":
        values = _labels(first, target)
        words = _words(values, label_words)
    elif label_words is not None:
        raise BadInput(f"label words go with --label-column; column {target!r} holds the answers themselves")
    elif answer == "number":
        decimals = decimals_of(first, target)
    task = Task(
        name=name or f"custom/{Path(next(iter(paths.values()))).name.split('.')[0]}",
        source=Source(files=paths),
        template=template or _template(text_columns),
        answer=answer,
        target=target,
        labels=words,
        label_values=values,
        metrics=tuple(metrics or DEFAULT_METRICS[answer]),
        max_length=max_length,
        decimals=decimals,
    )
    _check_columns(task, text_columns)
    return task


def _answer(label: str | None, number: str | None, text: str | None) -> tuple[Answer, str]:
    """How rows are answered, and the column that holds the answer."""
    named: tuple[tuple[Answer, str | None], ...] = (("label", label), ("number", number), ("text", text))
    given: list[tuple[Answer, str]] = [(answer, column) for answer, column in named if column is not None]
    if len(given) != 1:
        raise BadInput(
            "give one answer column: --label-column (a few labels), --number-column (a number) or --target-column "
            "(free text)"
        )
    return given[0]


def _paths(files: Files) -> dict[str, str]:
    named = files if isinstance(files, Mapping) else {"train": files}
    if not named:
        raise BadInput("give at least one file")
    for split in named:
        if split not in SPLITS:
            raise UnknownName("split", split, SPLITS)
    return {split: str(named[split]) for split in SPLITS if split in named}


def _template(columns: Sequence[str]) -> str:
    if not columns:
        raise BadInput("give --text-column (once for each column the model reads) or a template")
    for column in columns:
        if not column or any(mark in column for mark in "{}!:"):
            raise BadInput(f"column {column!r} cannot stand in a template; rename it without braces, '!' and ':'")
        if column == MASK:
            raise BadInput(
                "a column called 'mask' cannot stand in a template, where {mask} is the answer's place; rename it"
            )
    if len(columns) == 1:
        return f"{{{columns[0]}}}"
    return " ".join(f"{column}: {{{column}}}" for column in columns)


def _check_columns(task: Task, text_columns: Sequence[str]) -> None:
    if not task.columns:
        raise BadInput(f"template {task.template!r} reads no column; write one as {{column}}")
    for column in text_columns:
        if column not in task.columns:
            raise UnknownName("column in the template", column, task.columns)
    if task.target in task.columns:
        raise BadInput(f"column {task.target!r} is the answer; the template must not show it to the model")


def _labels(path: Path, column: str) -> tuple[Any, ...]:
    """The distinct labels of a file, sorted (as numbers if all are whole numbers)."""
    seen: dict[Any, None] = {}
    columns: dict[str, None] = {}
    for record in records(path):
        columns.update(dict.fromkeys(record.values))
        label = _label(record, column)
        if label is not None:
            seen[label] = None
        if len(seen) > MOST_LABELS:
            raise BadInput(
                f"{path}:{record.line}: more than {MOST_LABELS} labels in {column!r}; "
                "numbers go with --number-column, free text with --target-column"
            )
    if columns and column not in columns:
        raise UnknownName("column", column, columns)
    if len({type(label) for label in seen}) > 1:
        seen = dict.fromkeys(str(label) for label in seen)
    if not seen:
        raise BadInput(f"{str(path)!r} holds no labelled rows")
    if len(seen) < 2:
        raise BadInput(f"{str(path)!r} has one label only, {next(iter(seen))!r}; at least two are needed")
    try:
        return tuple(sorted(seen, key=int))
    except ValueError:
        return tuple(sorted(seen, key=str))


def _label(record: Record, column: str) -> Any:
    """A row's label, or None where the row is malformed: loading the rows will name it."""
    label = record.values.get(column)
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if not isinstance(label, str | int) or (isinstance(label, str) and (not label.strip() or text_fault(label))):
        return None
    return label


def _words(values: tuple[Any, ...], given: Mapping[Any, str] | Sequence[str] | None) -> tuple[str, ...]:
    words = _given_words(values, given)
    for value, word in zip(values, words, strict=True):
        if not word.strip():
            raise BadInput(f"the label word of {value!r} is empty; give each label a word")
    stripped = [word.strip() for word in words]
    for value, word in zip(values, stripped, strict=True):
        if stripped.count(word) > 1:
            raise BadInput(f"label word {word!r} of {value!r} is also another label's; give each label its own word")
    return words


def _given_words(values: tuple[Any, ...], given: Mapping[Any, str] | Sequence[str] | None) -> tuple[str, ...]:
    if given is None:
        return tuple(str(value) for value in values)
    if isinstance(given, Mapping):
        by_text = {str(value): word for value, word in given.items()}
        for value in by_text:
            if value not in map(str, values):
                raise UnknownName("label", value, map(str, values))
        missing = [value for value in values if str(value) not in by_text]
        if missing:
            raise BadInput(f"no label word for {', '.join(map(repr, missing))}")
        return tuple(by_text[str(value)] for value in values)
    if isinstance(given, str) or len(given) != len(values):
        raise BadInput(
            f"label words {given!r} for {len(values)} labels ({', '.join(map(repr, values))}); one each is needed"
        )
    return tuple(given)
