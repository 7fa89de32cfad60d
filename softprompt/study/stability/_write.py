"""A report as files: numbers, text and a figure with every seed."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...store import json_bytes, write_file
from ._arm import Arm
from ._report import Report
from ._spread import Spread
from ._text import text, title

Scores = dict[str, Sequence[float | None]]
Means = dict[str, tuple[float | None, float | None, float | None]]
Columns = tuple[Scores, Means]

log = logging.getLogger("softprompt")


def write(report: Report, folder: "Path | str") -> list[Path]:
    """Write report.json, report.md and strip.png, with several sources of variance causes.png; the files written.

    What is there is replaced. Without the plotting library there are no figures, and a warning says so.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    folder = Path(folder)
    files = {"report.json": json_bytes(report.to_json()), "report.md": text(report).encode(), **_figures(report)}
    for name, content in files.items():
        write_file(folder / name, content, what="the report", replace=True)
    return [folder / name for name in files]


def _figures(report: Report) -> dict[str, bytes]:
    try:
        from ...analysis import plots
    except ModuleNotFoundError as error:
        log.warning("no figures are drawn, only their numbers written: %s; pip install matplotlib", error)
        return {}
    drawn = {"strip.png": _columns(report.arms, report.spreads)}
    if report.causes:
        drawn["causes.png"] = _cause_columns(report)
    return {
        name: plots.image(plots.strip_figure(scores, means=means, chance=report.chance, title=title(report)), name)
        for name, (scores, means) in drawn.items()
    }


def _columns(arms: Mapping[str, Arm], spreads: Sequence[Spread], suffix: str = "") -> Columns:
    """Scores, and means with their intervals, by the name of the column."""
    scores: Scores = {f"{name}{suffix}": arm.scores for name, arm in arms.items()}
    return scores, {f"{spread.setting}{suffix}": (spread.mean, spread.low, spread.high) for spread in spreads}


def _cause_columns(report: Report) -> Columns:
    """A column for each setting and source."""
    scores: Scores = {}
    means: Means = {}
    for setting in report.arms:
        for source, spreads in report.causes.items():
            of_setting = [spread for spread in spreads if spread.setting == setting]
            some, levels = _columns({setting: report.cause_arms[source][setting]}, of_setting, f"\n{source}")
            scores, means = scores | some, means | levels
    return scores, means
