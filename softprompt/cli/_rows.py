"""The user's rows as a task: files, columns, label words."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..checks import option, require_different
from ..errors import BadInput
from ..tasks import LabelledWords, Task, Wording, custom_task, is_data_file, with_difficulty
from ..tasks import task as find_task


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """A task made from files.

    Args:
        data: training rows: CSV, TSV, JSON, JSON Lines (also .gz or .zst) or Parquet, or a glob; may be repeated.
        validation_data: validation rows; may be repeated. Default: a tenth of the training rows.
        test_data: test rows; may be repeated. Default: half of the validation rows, or a tenth of the training rows.
        delimiter: character between the fields of CSV or TSV. Default: a comma in .csv, a tab in .tsv.
        text_column: column with the text to read; may be repeated.
        label_column: column with the class of each row.
        number_column: column with a number, in place of a class.
        target_column: column with free text to write, in place of a class.
        template: text with {column} fields, also for a task known by name. Words at its end, as "Sentiment:", are
            the cue. Default: the text columns, one after the other.
        instruction: line before each text that says what to do, also for a task known by name.
        label_words: words to answer with, LABEL=WORD, or in the order of the sorted labels, as "negative,positive"; may
            be repeated, also for a task known by name. Default: the labels.
        metric: name of a metric; may be repeated, the first is the score. Default: accuracy and macro-f1; for numbers
            pearson, spearman, rmse and mae; for texts squad-f1 and exact-match.
    """

    data: tuple[str, ...] = ()
    validation_data: tuple[str, ...] = ()
    test_data: tuple[str, ...] = ()
    delimiter: str = ""
    text_column: tuple[str, ...] = ()
    label_column: str | None = None
    number_column: str | None = None
    target_column: str | None = None
    template: str | None = None
    instruction: str | None = None
    label_words: tuple[str, ...] = ()
    metric: tuple[str, ...] = ()

    def task(self, name: str | None) -> Task:
        """The task called `name`, or the one that these files make.

        Raises:
            UnknownName: no such task, metric or column.
            BadInput: neither a name nor a file, both, or options that belong to files beside a name.
        """
        data = self.data or ((name,) if name and is_data_file(name) else ())
        if not data:
            return self._named(name)
        if self.data and name:
            raise BadInput(f"give --task {name} or --data {self.data[0]}, not both")
        files = {"train": data, "validation": self.validation_data, "test": self.test_data}
        return custom_task(
            {split: paths for split, paths in files.items() if paths},
            text_columns=self.text_column,
            label_column=self.label_column,
            number_column=self.number_column,
            target_column=self.target_column,
            template=_unescaped(self.template),
            instruction=_unescaped(self.instruction) or "",
            label_words=words_of(self.label_words),
            metrics=self.metric or None,
            delimiter=self.delimiter,
        )

    def wording(self, name: str | None) -> Wording:
        """The words that replace those of a task known by name; none beside files, whose task is made with them."""
        if self.data or name is None or is_data_file(name):
            return Wording()
        return own_wording(self.instruction, self.template, self.label_words)

    def _named(self, name: str | None) -> Task:
        if name is None:
            raise BadInput("nothing to train on; give --task NAME (see `softprompt tasks list`) or --data FILE")
        words = {f.name for f in fields(Wording)}
        given = [f.name for f in fields(self) if getattr(self, f.name) and f.name not in words]
        if given:
            raise BadInput(f"{option(given[0])} is for rows of your own; give --data FILE instead of --task {name}")
        return find_task(name)


def given_words(wording: Wording) -> dict[str, Any]:
    """The parts of a wording that are given, as keywords of `train`, `evaluate` and `predict`."""
    return {name: value for name, value in vars(wording).items() if value is not None}


def own_wording(instruction: str | None, template: str | None, label_words: Sequence[str] | None) -> Wording:
    """The words of a user in the place of a task's, from the options that hold them."""
    return Wording(
        instruction=_unescaped(instruction), template=_unescaped(template), label_words=words_of(label_words or ())
    )


def words_of(texts: Sequence[str]) -> dict[str, str] | tuple[str, ...] | None:
    """Label words as they are given: repeated, or one text with commas; by label where each is LABEL=WORD.

    None where there are none.
    """
    words = [word.strip() for word in texts[0].split(",")] if len(texts) == 1 else list(texts)
    if words and all("=" in text for text in words) and any(text.count("=") > 1 for text in words):
        require_different("--label-words", words)
        return LabelledWords.fromkeys(words, "")
    pairs = [text.partition("=") for text in words]
    if pairs and all(sign for _, sign, _ in pairs):
        require_different("--label-words", [label for label, _, _ in pairs])
        return {label: word for label, _, word in pairs}
    return tuple(words) or None


def _unescaped(text: str | None) -> str | None:
    """A text of the command line, in which a backslash and an n stand for the end of a line."""
    return None if text is None else text.replace("\\n", "\n")


def with_options(task: Task, texts: Sequence[str] | None) -> Task:
    """A lab task with rows as the KEY=VALUE options say.

    Raises:
        BadInput: an option that is not KEY=VALUE, a value that is no number, or a task that is not of the lab.
        UnknownName: no such option.
    """
    options = list(map(_number, texts or ()))
    require_different("--task-option", [name for name, _ in options])
    return with_difficulty(task, **dict(options))


def _number(text: str) -> tuple[str, int | float]:
    name, sign, value = text.partition("=")
    name = name.replace("-", "_")
    try:
        if sign:
            return name, float(value) if name == "label_noise" else int(value)
    except ValueError:
        pass
    raise BadInput(f"--task-option {text!r} is not KEY=NUMBER, as in noise=4 or label_noise=0.1")
