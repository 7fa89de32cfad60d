"""The tables of a report: their columns, which of them are numbers, and the same as CSV."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..documents import csv_table
from ..study.statistics import mean_of_known
from ._entry import Entry
from ._settings import Setting

Row = dict[str, Any]
DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a page.

    Args:
        caption: what it shows.
        columns: names, in order.
        rows: values by column, as they are sorted and downloaded.
        help: what a column means, by its name.
        is_filtered: whether the page offers a field that filters its rows.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    help: Mapping[str, str]
    is_filtered: bool = False

    def is_number(self, column: str) -> bool:
        """Whether a column holds numbers only, so that it is set to the right."""
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and all(isinstance(value, int | float) for value in values)

    def csv(self) -> str:
        """The rows as CSV, numbers with all their digits."""
        return csv_table([self.columns, *([row.get(name) for name in self.columns] for row in self.rows)])


def cell(value: Any) -> str:
    """A value as the page shows it."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return (
                f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{DIGITS}f}" if abs(value) < 10 else f"{value:.1f}"
            )
        case _:
            return str(value)


def settings_table(settings: Sequence[Setting]) -> Table:
    """One row for each setting of each task and model."""
    rows = [
        {
            "task": setting.key[0],
            "model": setting.key[1],
            "setting": setting.name,
            "runs": setting.numbers["n"],
            "dropped": setting.numbers["dropped"] or None,
            "mean": setting.numbers["mean"],
            "sd": setting.numbers["std"],
            "low": setting.numbers["low"],
            "high": setting.numbers["high"],
            "worst": setting.numbers["min"],
            "worst seed": setting.worst_seed,
            "trainable": _first(setting, "trainable"),
            "stored": _first(setting, "stored"),
            "token norms": setting.numbers["token_norms"],
            "steps a run": _rounded(mean_of_known([entry.run.prompt_steps for entry in setting.entries])),
            "seconds a run": mean_of_known([entry.run.seconds or None for entry in setting.entries]),
        }
        for setting in settings
    ]
    words = {
        "mean": "of the test scores",
        "sd": "standard deviation over seeds (n - 1)",
        "low": "lower end of the 95 % bootstrap interval of the mean",
        "high": "upper end of the same interval",
        "worst": "lowest test score of a seed",
        "trainable": "trained parameters",
        "stored": "numbers that a stored prompt has",
        "token norms": "median norm of the prompts, in mean norms of a word vector",
        "steps a run": "optimiser steps, restarts among them",
        "seconds a run": "share of the wall time",
    }
    return _table("Settings: test scores over seeds, and what they cost", rows, words)


def runs_table(entries: Sequence[tuple[Entry, str]]) -> Table:
    """One row for each prompt."""
    rows = [
        {
            "run": entry.label,
            "task": entry.task,
            "model": entry.run.spec.model,
            "setting": setting,
            "seed": entry.run.spec.prompt.seeds.initialization,
            "test": entry.run.score,
            "validation": entry.run.validation_score,
            "majority": entry.run.majority,
            "best step": None if entry.run.validation_score is None else entry.run.best_step,
            "stored": entry.run.stored or None,
            "token norms": entry.run.at_best("token_norms"),
            "steps": entry.run.prompt_steps,
            "seconds": entry.run.seconds or None,
            "status": entry.run.status if entry.state == "finished" else entry.state,
        }
        for entry, setting in entries
    ]
    words = {
        "test": "test score of the checkpoint with the best validation score",
        "majority": "score of always answering the most frequent class, or the mean where an error is the score",
        "token norms": "norm of the prompt at that checkpoint, in mean norms of a word vector",
        "seconds": "share of the wall time",
    }
    return _table("All runs", rows, words, is_filtered=True)


def _table(caption: str, rows: Sequence[Row], words: Mapping[str, str], is_filtered: bool = False) -> Table:
    """The rows without columns that are empty, and without a task, model or setting that all of them share."""
    names = list(rows[0]) if rows else []
    columns = [name for name in names if any(row[name] is not None for row in rows)]
    if len(rows) > 1:
        same = {name for name in ("task", "model", "setting") if len({row[name] for row in rows}) == 1}
        columns = [name for name in columns if name not in same]
    return Table(
        caption=caption,
        columns=columns,
        rows=[{name: row[name] for name in columns} for row in rows],
        help=words,
        is_filtered=is_filtered,
    )


def class_table(answered: Any) -> Table:
    """Precision, recall and F1 of each class."""
    rows = answered.classes.by_class()
    words = {
        "precision": "of the rows answered so, the share that are so",
        "recall": "of the rows that are so, the share answered so",
        "f1": "the harmonic mean of both",
    }
    return Table(caption="Scores of each class", columns=list(rows[0]), rows=rows, help=words)


def csv_files(tables: Mapping[str, Table]) -> Iterator[tuple[str, str]]:
    """File name and contents of each table."""
    yield from ((f"{name}.csv", table.csv()) for name, table in tables.items())


def _first(setting: Setting, name: str) -> int | None:
    return next((number for entry in setting.entries if (number := getattr(entry.run, name))), None)


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
