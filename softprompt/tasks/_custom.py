"""A task made of the user's own files: which columns are read, and what the answers are called."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnknownName
from ._base import MASK, Answer, Source, Task
from ._files import delimiter_of, paths_of, records
from ._labels import label_values_of, label_words_of
from ._numbers import decimals_of
from ._records import Record

# A path or a glob, or several of them.
File = str | Path | Sequence[str | Path]
Files = File | Mapping[str, File]
SPLITS = ("train", "validation", "test")
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
    delimiter: str = "",
) -> Task:
    """A task of the user's files: CSV, TSV, JSON or JSON Lines (all also .gz or .zst), or Parquet.

    A column `user.name` is the column of this name, or the field `name` of the object `user`.

    Args:
        files: the training file, or split -> file for "train", "validation" and "test"; a file may be a glob, or
            several.
        text_columns: what the model reads; may be left out if a template names them.
        label_column: holds one of a few labels; they are read from the training file.
        number_column: holds a number; the decimals of a written answer follow from the training file's numbers.
        target_column: holds free text (or, in JSON and Parquet, a list of accepted texts).
        template: text with {column} fields; one text column stands alone, several as "column: {column} ...". {mask} is
            where a masked-LM head answers.
        label_words: what the model answers, by label or in the order of the sorted labels; default the labels.
        metrics: names in METRICS, the first of which is the score; default accuracy, macro-f1 for labels, pearson,
            spearman, rmse, mae for numbers, squad-f1, exact-match for text.
        name: default "custom/" and the training file's name.
        max_length: tokens of the rendered text, special tokens included, the prompt not.
        delimiter: what separates the fields of CSV or TSV; empty is "," or the tab, as the file's name says.

    Raises:
        UnknownName: a split or column that does not exist.
        BadInput: no or two answer columns, unusable files, fewer than two labels or two that read alike, fewer than two
            numbers, empty or equal label words.
    """
    source = own_source(files, delimiter)
    answer, target = _answer(label_column, number_column, target_column)
    values: tuple[Any, ...] = ()
    words: tuple[str, ...] = ()
    decimals = None
    split = next(iter(source.files))
    if answer == "label":
        values = label_values_of(own_records(source, split), target, named=isinstance(label_words, Mapping))
        words = label_words_of(values, label_words)
    elif label_words is not None:
        raise BadInput(f"label words go with --label-column; column {target!r} holds the answers themselves")
    elif answer == "number":
        decimals = decimals_of(own_records(source, split), target)
    task = Task(
        name=name or f"custom/{_stem(source)}",
        source=source,
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


def own_source(files: Files, delimiter: str = "") -> Source:
    """The source of the user's own rows, as `custom_task` takes them."""
    named = files if isinstance(files, Mapping) else {"train": files}
    if not named:
        raise BadInput("give at least one file")
    for split in named:
        if split not in SPLITS:
            raise UnknownName("split", split, SPLITS)
    paths = {split: paths_of(named[split]) for split in SPLITS if split in named}
    single = {split: files[0] if len(files) == 1 else files for split, files in paths.items()}
    return Source(files=single, delimiter=delimiter and delimiter_of(delimiter))


def own_records(source: Source, split: str) -> Iterator[tuple[str, Record]]:
    """The rows of a split of the user's own, each with the file it is in."""
    for path in source.paths(split):
        yield from ((path, record) for record in records(Path(path), source.delimiter))


def _stem(source: Source) -> str:
    """The name of the first file without its ending."""
    return Path(source.paths(next(iter(source.files)))[0]).name.split(".")[0]


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
