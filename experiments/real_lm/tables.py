"""From the committed results to the numbers of the page: means, spreads, paired intervals and corrected tests."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softprompt.study.statistics import bootstrap, brown_forsythe, holm, wilcoxon

from .arms import ARMS
from .design import CELLS

REFERENCE = "pt"
HAND_WRITTEN = ("frozen", "frozen-calibrated", "instruction", "instruction-calibrated")
# A prompt is stuck if it ends at most this much above the most frequent class.
STUCK = 0.02


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm on one task with one number of rows.

    Args:
        arm: name in `ARMS`, or of what the frozen model scores.
        mean: mean accuracy on test over seeds.
        spread: standard deviation over seeds; None for fewer than two.
        stuck: share of seeds that are stuck.
        token_norms: median over seeds of the mean norm of a vector, in token norms.
        trainable: trained parameters; the median over seeds, for examples differ in length.
        difference: mean difference to the best hand-written prompt.
        interval: its 95 % interval over seeds.
        to_reference: mean paired difference to prompt tuning with the same seeds.
        p: of Wilcoxon's test on these pairs, corrected by Holm over the arms of the table.
        p_spread: of Brown and Forsythe's test of both spreads, corrected in the same way.
        seeds: number of seeds.
    """

    arm: str
    mean: float
    spread: float | None = None
    stuck: float | None = None
    token_norms: float | None = None
    trainable: int | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    to_reference: float | None = None
    p: float | None = None
    p_spread: float | None = None
    seeds: int = 1


Records = Sequence[Mapping[str, Any]]


def by_cell(files: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]]:
    """The records of all files by task and size, then by arm, in the order of seeds."""
    cells: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for file in files:
        arms = cells.setdefault((file["task"], file["size"]), {})
        for record in file["records"]:
            arms.setdefault(record["arm"], []).append(record)
    for arms in cells.values():
        for records in arms.values():
            records.sort(key=lambda record: record.get("seed", 0))
    return cells


def hand_written(frozen: Mapping[str, Records]) -> float:
    """The best score that needs no training and no labels: the bare template or the instruction, calibrated or not."""
    return max(frozen[arm][0]["test"] for arm in HAND_WRITTEN)


def rows(arms: Mapping[str, Records], frozen: Mapping[str, Records]) -> list[Row]:
    """The rows of a table: what is frozen first, then the arms in the order of the design."""
    best = hand_written(frozen)
    still = [Row(arm=arm, mean=records[0]["test"]) for arm, records in frozen.items()]
    trained = [(name, arms[name]) for name in ARMS if name in arms]
    pairs = {name: _pairs(records, arms.get(REFERENCE, ())) for name, records in trained if name != REFERENCE}
    p = dict(zip(pairs, holm([wilcoxon([a - b for a, b in pair]) for pair in pairs.values()]), strict=True))
    spread = dict(zip(pairs, holm([_same_spread(pair) for pair in pairs.values()]), strict=True))
    return still + [
        _row(name, records, best, pairs.get(name, []), p.get(name), spread.get(name)) for name, records in trained
    ]


def _row(
    name: str,
    records: Records,
    best: float,
    pairs: Sequence[tuple[float, float]],
    p: float | None,
    p_spread: float | None,
) -> Row:
    scores = [record["test"] for record in records]
    norms = [record["token_norms"] for record in records if record["token_norms"] is not None]
    return Row(
        arm=name,
        mean=statistics.fmean(scores),
        spread=statistics.stdev(scores) if len(scores) > 1 else None,
        stuck=statistics.fmean(record["test"] <= record["majority"] + STUCK for record in records),
        token_norms=statistics.median(norms) if norms else None,
        trainable=round(statistics.median(record["trainable"] for record in records)),
        difference=statistics.fmean(scores) - best,
        interval=bootstrap([score - best for score in scores]),
        to_reference=statistics.fmean(a - b for a, b in pairs) if pairs else None,
        p=p,
        p_spread=p_spread,
        seeds=len(scores),
    )


def _pairs(records: Records, reference: Records) -> list[tuple[float, float]]:
    """Scores of both arms with the same seed."""
    scores = {record["seed"]: record["test"] for record in reference}
    return [(record["test"], scores[record["seed"]]) for record in records if record["seed"] in scores]


def _same_spread(pairs: Sequence[tuple[float, float]]) -> float | None:
    return brown_forsythe([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None


def chosen_rates(files: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The rate of each arm with the highest mean validation accuracy over the tasks and seeds of the rates."""
    scores: dict[str, dict[float, list[float]]] = {}
    for file in files:
        for record in file["records"]:
            scores.setdefault(record["arm"], {}).setdefault(record["lr"], []).append(record["validation"])
    # Of equal rates the lower one.
    return {
        arm: max(sorted(rates), key=lambda rate: round(statistics.fmean(rates[rate]), 6))
        for arm, rates in scores.items()
    }


def rate_scores(files: Sequence[Mapping[str, Any]]) -> dict[tuple[str, float], dict[str, float]]:
    """Mean test accuracy by task of each arm at each rate, in the order of the arms and of their rates."""
    scores: dict[tuple[str, float], dict[str, list[float]]] = {}
    for file in files:
        for record in file["records"]:
            tasks = scores.setdefault((record["arm"], record["lr"]), {})
            tasks.setdefault(file["task"], []).append(record["test"])
    names = list(ARMS)
    return {
        key: {task: statistics.fmean(found) for task, found in scores[key].items()}
        for key in sorted(scores, key=lambda key: (names.index(key[0]), key[1]))
    }


def summary(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page says, as plain values: the rows of every table."""
    cells = by_cell(files)
    return {
        f"{task} {size}": [vars(row) for row in rows(cells[task, size], cells[task, "frozen"])]
        for task, size in CELLS
        if (task, size) in cells and (task, "frozen") in cells
    }
