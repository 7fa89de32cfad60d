"""A task made of the user's own files: which columns are read, and what the answers are called."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checks import listed, require_different, require_kind
from ..errors import BadInput, UnknownName
from ._base import Answer, Task
from ._by_name import by_name, class_names
from ._labels import label_values_of, label_words_of
from ._memory import MemoryRows
from ._numbers import decimals_of
from ._records import Record, columns_of
from ._rephrase import cue_of, refuse_template, without_last_blanks, words_of
from ._source import SPLITS, Source
from ._template import MASK, template_columns
from .files import delimiter_of, paths_of, records

# Of one split: a path or a glob, several of them, or rows in memory (a list of dicts, a DataFrame, a Dataset).
Rows = Any
Files = Rows | Mapping[str, Rows]
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
    instruction: str = "",
    label_words: Mapping[Any, str] | Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    name: str | None = None,
    max_length: int = 256,
    delimiter: str = "",
) -> Task:
    """A task of the user's rows: in memory, or in files (CSV, TSV, JSON, JSON Lines, all also .gz or .zst; Parquet).

    A column `user.name` is the column of this name, or the field `name` of the object `user`.

    Args:
        files: the training rows, or split -> rows for "train", "validation" and "test" (a dict, or a
            `datasets.DatasetDict`). Rows are a file, a glob, several files, a list of dicts, a pandas DataFrame or a
            `datasets.Dataset`, whose class names are the label words. Rows in memory are not stored, only their number
            and hash.
        text_columns: what the model reads, a column or several; may be left out if a template names them.
        label_column: holds one of a few labels; they are read from the training file.
        number_column: holds a number; the decimals of a written answer follow from the training file's numbers.
        target_column: holds free text (or, in JSON and Parquet, a list of accepted texts).
        template: text with {column} fields; one text column stands alone, several as "column: {column} ...". {mask} is
            where a masked-LM head answers. Words at its end, as "Sentiment:", are the cue, and a decoder's answer
            follows them.
        instruction: says what is to be done, on a line of its own before the text of each row.
        label_words: what the model answers, by label or in the order of the sorted labels; default the labels.
        metrics: names in METRICS, the first of which is the score; default accuracy, macro-f1 for labels, pearson,
            spearman, rmse, mae for numbers, squad-f1, exact-match for text.
        name: default "custom/" and the training file's name.
        max_length: tokens of the rendered text, special tokens included, the prompt not.
        delimiter: what separates the fields of CSV or TSV; empty is "," or the tab, as the file's name says.

    Raises:
        UnknownName: a split or column that does not exist.
        BadInput: a column or metric twice, no or two answer columns, unusable files, fewer than two labels or two that
            read alike, fewer than two numbers, empty or equal label words.
    """
    texts = {"label_column": label_column, "number_column": number_column, "target_column": target_column,
             "template": template, "name": name}  # fmt: skip
    for argument, value in texts.items():
        require_kind(argument, value, str | None)
    require_kind("delimiter", delimiter, str)
    text_columns = listed("--text-column", text_columns)
    for column in text_columns:
        require_kind("text_columns", column, str)
    metrics = None if metrics is None else listed("--metric", metrics)
    require_different("--text-column", text_columns)
    require_different("--metric", metrics or ())
    cue = None
    if template:
        template = without_last_blanks(template)
        cue = cue_of(template)
    else:
        template = _template(text_columns)
    answer, target = _answer(label_column, number_column, target_column)
    source = own_source(files, (*template_columns(template), target), delimiter)
    answers = _answer_fields(answer, source, files, target, label_words)
    task = Task(
        name=name or f"custom/{_stem(source)}",
        source=source,
        template=template,
        answer=answer,
        target=target,
        metrics=tuple(metrics or DEFAULT_METRICS[answer]),
        max_length=max_length,
        instruction=words_of(instruction),
        cue=cue,
        **answers,
    )
    _check_columns(task, text_columns)
    return by_name(task, _by_split(files))


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


def _answer_fields(
    answer: Answer, source: Source, files: Files, target: str, label_words: Mapping[Any, str] | Sequence[str] | None
) -> dict[str, Any]:
    """What a task says of its answers beside their kind, from the training rows: labels, or decimals of numbers."""
    split = source.splits[0]
    place = place_of(source, split)
    if answer != "label":
        if label_words is not None:
            raise BadInput(f"label words go with --label-column; column {target!r} holds the answers themselves")
        return {"decimals": decimals_of(own_records(source, split), target, place)} if answer == "number" else {}
    named = isinstance(label_words, Mapping)
    values = label_values_of(own_records(source, split), target, named=named, place=place)
    names = class_names(_by_split(files)[split], target)
    if names:
        # -1 marks rows without a label.
        values = tuple(value for value in values if value != -1)
        label_words = {value: names[value] for value in values} if label_words is None else label_words
    words = label_words_of(values, label_words)
    return {"labels": words, "label_values": values, "class_names": tuple(names[value] for value in values if names)}


def own_source(files: Files, columns: Sequence[str], delimiter: str = "") -> Source:
    """The source of the user's own rows, as `custom_task` takes them.

    Args:
        files: rows, or split -> rows.
        columns: that the task reads of rows in memory.
        delimiter: of CSV and TSV.

    Raises:
        UnknownName: a split or a column that does not exist.
        BadInput: no rows, rows of another kind, or a file twice in a split.
    """
    named = _by_split(files)
    if not named:
        raise BadInput("no rows; give at least those to train on")
    for split in named:
        if split not in SPLITS:
            raise UnknownName("split", str(split), SPLITS)
    rows = {split: named[split] for split in SPLITS if split in named}
    paths = {split: paths_of(given) for split, given in rows.items() if _names_files(given)}
    for files_of_split in paths.values():
        _refuse_twice(files_of_split)
    return Source(
        files={split: files[0] if len(files) == 1 else files for split, files in paths.items()},
        delimiter=delimiter and delimiter_of(delimiter),
        memory={split: MemoryRows.of(given, columns) for split, given in rows.items() if split not in paths},
    )


def _refuse_twice(paths: Sequence[str]) -> None:
    """Refuse a file that stands twice in a split, by another name too."""
    first: dict[str, str] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in first:
            again = "stands there twice" if path == first[real] else f"is {first[real]!r} again"
            raise BadInput(f"{path!r} {again}, so that its rows would be read twice; give it once")
        first[real] = path


def _by_split(files: Files) -> Mapping[str, Rows]:
    """Split -> rows; rows without splits are those to train on."""
    return files if isinstance(files, Mapping) else {"train": files}


def _names_files(given: Any) -> bool:
    several = given if isinstance(given, list | tuple) else [given]
    return bool(several) and all(isinstance(path, str | Path) for path in several)


def own_records(source: Source, split: str) -> Iterator[tuple[str, Record]]:
    """The rows of a split of the user's own, each with the file it is in.

    Raises:
        BadInput: rows that were given in memory and are not there.
    """
    if split in source.memory:
        return ((place_of(source, split), record) for record in source.memory[split].records())
    return ((path, record) for path in source.paths(split) for record in records(Path(path), source.delimiter))


def place_of(source: Source, split: str) -> str:
    """Where the rows of a split are, in words."""
    return f"{split} rows" if split in source.memory else ", ".join(source.paths(split))


def _stem(source: Source) -> str:
    """The name of the first file without its ending."""
    split = source.splits[0]
    return "rows" if split in source.memory else Path(source.paths(split)[0]).name.split(".")[0]


def on_rows(task: Task, rows: Files, delimiter: str = "", more: Sequence[str] = ()) -> Task:
    """The task on other rows: of splits, or as its test rows.

    Args:
        task: what is read, and how it is answered.
        rows: as in `custom_task`.
        delimiter: of CSV and TSV.
        more: columns that are kept beside those that the task reads.

    Raises:
        UnknownName: a split or a column that does not exist.
        BadInput: no rows, rows of another kind, or classes that are called otherwise.
    """
    splits = rows if isinstance(rows, Mapping) else {"test": rows}
    return by_name(dataclasses.replace(task, source=own_source(splits, (*task.read, *more), delimiter)), splits)


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


def in_lines(task: Task) -> Task:
    """The user's task for a language model: `column: value` lines, and the answer's column as the cue.

    A template that the user wrote stays.
    """
    if not task.source.is_own or task.cue is not None or task.template != _template(task.columns):
        return task
    lines = [f"{column}: {{{column}}}" for column in task.columns]
    return dataclasses.replace(task, template="\n".join([*lines, f"{task.target}:"]), cue="")


def _check_columns(task: Task, text_columns: Sequence[str]) -> None:
    refuse_template(task.template, task.target)
    lacking = next((column for column in text_columns if column not in task.columns), None)
    if lacking is None:
        return
    records = own_records(task.source, task.source.splits[0])
    known = next((tuple(columns_of(record.values)) for _, record in records if record.values), ())
    # Rows in memory hold no more than what the template reads.
    if known and not task.source.memory and lacking not in known:
        raise UnknownName("column", lacking, known)
    wrong = next((column for column in task.columns if known and column not in known), None)
    beside = "" if wrong is None else f" and reads {{{wrong}}}, which is none of the columns ({', '.join(known)})"
    raise BadInput(
        f"template {task.template!r} lacks {{{lacking}}} of --text-column{beside}; write {{{lacking}}} into it"
    )
