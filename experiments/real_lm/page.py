"""The page of the study, docs/results/real-lm.md: its tables come from the committed results alone."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from softprompt.store import json_bytes, write_file

from ..common.page import write_page
from ..common.places import PAGES
from .arms import ARMS
from .design import CELLS, SMALL_RATE_TASKS, SMALL_RATES
from .results import Folder
from .tables import STUCK, Row, by_cell, hand_written, rate_scores, rows, summary

PAGE = PAGES / "real-lm.md"
BEGIN = "<!-- tables: python -m experiments.real_lm page -->"
FROZEN = {
    "majority": "most frequent class",
    "frozen": "frozen model, bare template",
    "frozen-calibrated": "the same, calibrated",
    "instruction": "hand-written instruction",
    "instruction-calibrated": "the same, calibrated",
    "examples": "4 examples in context, at least one a class (mean of 3 draws)",
    "examples-calibrated": "the same, calibrated",
}
# Columns of the table that has all tasks: the arms, with shorter names.
COMPARED = {
    "pt-instruction": "default: from the instruction",
    "pt-examples": "from 4 examples",
    "pt": "10 random vectors",
    "scaled": "`scaled`",
    "ept-star": "EPT\\*",
    "lora": "LoRA",
}
HEAD = (
    "| prompt | loss | seeds | accuracy | sd over seeds | at chance | token norms | trained parameters | "
    "above hand-written | against prompt tuning | p, mean | p, sd |\n" + "|---" * 12 + "|"
)


def make_page(results: Path, page: Path = PAGE) -> None:
    """Write the tables into the page, and the same numbers beside each folder of results.

    Raises:
        DamagedFile: a file of results is not as it was written.
        BadInput: the page has no place for tables.
    """
    write_page(page, all_tables(results), BEGIN)
    for folder in (results, small_of(results)):
        if files := Folder(folder, folder).read():
            write_file(summary_of(folder), json_bytes(summary(files)), what="the summary", replace=True)


def all_tables(results: Path) -> str:
    """The tables of the whole study, then those of its small form."""
    forms = {" (default rates)": small_of(results), "": results}
    lines: list[str] = []
    for form, folder in forms.items():
        files = Folder(folder, folder).read()
        lines += [*overview(files, form), *tables(files, form)]
    rates = small_of(results) / "rates"
    return "\n".join([*lines, *rate_table(Folder(rates, rates).read())])


def small_of(results: Path) -> Path:
    """The folder with the results of the small form, beside those of the whole study."""
    return results.with_name(f"{results.name}_small")


def summary_of(results: Path) -> Path:
    """Where the summary is: beside the folder of results, which holds one file a piece."""
    return results.with_name(f"{results.name}.json")


def overview(files: Sequence[dict], form: str = "") -> list[str]:
    """One table of all tasks: means over seeds, with the worst seed in brackets; nothing where there are no results."""
    cells = by_cell(files)
    head = ["task", "learned from", "most frequent class", "hand-written", "4 examples in context", *COMPARED.values()]
    lines = [
        f"## All tasks{form}\n",
        "Mean accuracy on test over seeds, and the worst seed in brackets. Hand-written and in context: the better of "
        "as it is and calibrated.\n",
        f"| {' | '.join(head)} |\n" + "|---" * len(head) + "|",
    ]
    found = [(task, size) for task, size in CELLS if (task, size) in cells and (task, "frozen") in cells]
    for task, size in found:
        frozen, arms = cells[task, "frozen"], cells[task, size]
        in_context = [frozen[arm][0]["test"] for arm in ("examples", "examples-calibrated") if arm in frozen]
        still = [frozen["majority"][0]["test"], hand_written(frozen), max(in_context, default=None)]
        trained = [_mean_and_worst([record["test"] for record in arms.get(arm, ())]) for arm in COMPARED]
        lines.append(f"| {' | '.join([task, _words(size), *map(_number, still), *trained])} |")
    return [*lines, ""] if found else []


def _mean_and_worst(scores: Sequence[float]) -> str:
    return f"{statistics.fmean(scores):.3f} ({min(scores):.3f})" if scores else ""


def tables(files: Sequence[dict], form: str = "") -> list[str]:
    """One table a task and number of rows, in the order of the design.

    Args:
        files: results of the study.
        form: words after each heading.
    """
    cells, made = by_cell(files), []
    for task, size in CELLS:
        if (task, size) not in cells or (task, "frozen") not in cells:
            continue
        frozen = cells[task, "frozen"]
        body = rows(cells[task, size], frozen)
        scored = next(file["rows"] for file in files if file["task"] == task and file["size"] == "frozen")
        made += [
            f"## {task}, {_words(size)}{form}\n",
            f"{scored} test rows; best hand-written prompt {hand_written(frozen):.3f}; at chance is at most {STUCK} "
            "above the most frequent class.\n",
            HEAD,
            *map(_line, body),
            "",
        ]
    return made


def rate_table(files: Sequence[dict]) -> list[str]:
    """The default rate of each method beside a third and three times of it; nothing where there are no results."""
    if not files:
        return []
    head = ["prompt", "rate", *SMALL_RATE_TASKS, "mean"]
    lines = [
        "## Other rates, on tasks that are not in the tables above\n",
        f"| {' | '.join(head)} |" + "\n|" + "---|" * len(head),
    ]
    for (arm, rate), scores in rate_scores(files).items():
        cells = [_number(scores.get(task)) for task in SMALL_RATE_TASKS]
        mean = statistics.fmean(scores.values()) if len(scores) == len(SMALL_RATE_TASKS) else None
        default = " (default)" if rate == SMALL_RATES[arm][1] else ""
        lines.append(f"| {ARMS[arm].label} | {rate:g}{default} | {' | '.join([*cells, _number(mean)])} |")
    return [*lines, ""]


def _words(size: str) -> str:
    shots, _, chosen_by = size.partition("+")
    words = f"{shots[1:]} rows of each class" if size.startswith("k") else f"{shots} rows"
    return f"{words}, {chosen_by} to choose by" if chosen_by else words


def _line(row: Row) -> str:
    if row.arm in FROZEN:
        return f"| {FROZEN[row.arm]} | | | {row.mean:.3f} |" + " |" * 8
    arm = ARMS[row.arm]
    interval = "" if row.interval is None else f" ({row.interval[0]:+.3f} to {row.interval[1]:+.3f})"
    cells = [
        arm.label,
        arm.loss,
        str(row.seeds),
        f"{row.mean:.3f}",
        _number(row.spread),
        "" if row.stuck is None else f"{row.stuck:.2f}",
        "" if row.token_norms is None else f"{row.token_norms:.3g}",
        f"{row.trainable:,}",
        f"{row.difference:+.3f}{interval}",
        "" if row.to_reference is None else f"{row.to_reference:+.3f}",
        _number(row.p),
        _number(row.p_spread),
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
