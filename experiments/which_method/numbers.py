"""The runs of a method, their means, and paired differences, for the tables and for the rule of the default."""

import statistics
from collections.abc import Collection, Mapping
from typing import Any

from softprompt.metrics import is_stuck
from softprompt.study.statistics import wilcoxon

from ..common.paired import Cell, Mean, differences
from .candidates import FULL, HEAD, REFERENCE
from .design import Part
from .results import Entry, Results, key_of

Row = dict[str, Any]
# (task, seed) -> run, of one method.
Runs = Mapping[Cell, Entry]


def by_candidate(results: Results, name: str, part: Part, model: str) -> dict[str, Runs]:
    """Method -> its runs in a part; methods without any left out."""
    by_name = {}
    for candidate in part.candidates:
        cells = {task: results.cells.get(key_of(name, model, task, candidate), {}) for task in part.tasks}
        runs = {(task, int(seed)): run for task, cell in cells.items() for seed, run in cell.items()}
        if runs:
            by_name[candidate] = runs
    return by_name


def reference_of(candidates: Collection[str]) -> str:
    """What a table's methods are compared with: the head alone where there is one, else prompt tuning."""
    return HEAD if HEAD in candidates else REFERENCE


def paired(ours: Runs, theirs: Runs) -> Row:
    """The differences of scores over the tasks and seeds that both have; a run without a score is in no pair."""
    values = differences(*({cell: run["score"] for cell, run in runs.items()} for runs in (ours, theirs)))
    compared = Mean.of(values)
    wins, losses = sum(value > 0 for value in values), sum(value < 0 for value in values)
    return {
        "pairs": compared.n,
        "difference": compared.mean,
        "low": compared.low,
        "high": compared.high,
        "wins / ties / losses": f"{wins} / {len(values) - wins - losses} / {losses}" if values else None,
        "p": wilcoxon(values),
    }


def told(row: Row) -> str:
    """A paired difference and its interval; empty where there is no pair."""
    if row["difference"] is None:
        return ""
    interval = "" if row["low"] is None else f" ({row['low']:+.3f} .. {row['high']:+.3f})"
    return f"{row['difference']:+.3f}{interval}"


def of_task(runs: Runs, task: str) -> Runs:
    """Those of one task."""
    return {key: run for key, run in runs.items() if key[0] == task}


def scores_of(runs: Runs, task: str) -> list[float]:
    """The scores on one task."""
    return [run["score"] for run in of_task(runs, task).values() if run["score"] is not None]


def mean_of_tasks(runs: Runs) -> float | None:
    """The mean over tasks of means over seeds."""
    means = [statistics.fmean(scores) for task in {t: 0 for t, _ in runs} if (scores := scores_of(runs, task))]
    return statistics.fmean(means) if means else None


def pooled(runs: Runs) -> float | None:
    """The root mean square over tasks of standard deviations over seeds."""
    spread = [
        statistics.variance(scores) for task in {t: 0 for t, _ in runs} if len(scores := scores_of(runs, task)) > 1
    ]
    return statistics.fmean(spread) ** 0.5 if spread else None


def stuck_share(runs: Runs, ceilings: Mapping[str, float]) -> float | None:
    """The share of runs that are stuck; one without a score is."""
    verdicts = [
        run["score"] is None or is_stuck(run["score"], run["majority"] or 0.0, ceilings[task])
        for (task, _), run in runs.items()
        if task in ceilings
    ]
    return statistics.fmean(verdicts) if verdicts else None


def ceilings_of(runs: Mapping[str, Runs]) -> dict[str, float]:
    """The best score of a prompt on each task; full fine-tuning does not count."""
    best: dict[str, float] = {}
    for candidate, mine in runs.items():
        for (task, _), run in mine.items():
            if candidate != FULL and run["score"] is not None:
                best[task] = max(run["score"], best.get(task, run["score"]))
    return best
