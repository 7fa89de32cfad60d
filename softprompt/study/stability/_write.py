"""A report as files: numbers, text and a figure with every seed."""

import contextlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ...store import json_bytes, write_file
from ._arm import Arm
from ._report import Report
from ._spread import Spread
from ._text import text, title

Scores = dict[str, Sequence[float | None]]
Means = dict[str, tuple[float | None, float | None, float | None]]
Columns = tuple[Scores, Means]

log = logging.getLogger("softprompt")
REPORT, CAUSES = "report.json", "causes.png"


def refuse_other_report(folder: "Path | str", about: Mapping[str, Any]) -> None:
    """Refuse a folder whose report is another one, before anything is trained that would replace it.

    Args:
        folder: where the report is to be written.
        about: of the plan; a report of its task and model is replaced.

    Raises:
        BadInput: there is a report of another command, task or model.
    """
    place = Path(folder) / REPORT
    if not os.path.lexists(place):
        return
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        stored = json.loads(place.read_bytes())
        if "spreads" in stored and all(stored["about"][name] == about[name] for name in ("task", "model")):
            return
    raise BadInput(
        f"{str(place)!r} is not a report on the stability of {about['task']} on {about['model']}, and would be "
        "replaced; choose another place for the report"
    )


def write(report: Report, folder: "Path | str") -> list[Path]:
    """Write report.json, report.md and strip.png, with several sources of variance causes.png; the files written.

    A report that is there is replaced. Without the plotting library there are no figures, and a warning says so.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    folder = Path(folder)
    files = {REPORT: json_bytes(report.to_json()), "report.md": text(report).encode(), **_figures(report)}
    for name, content in files.items():
        write_file(folder / name, content, what="the report", replace=True)
    if CAUSES not in files:
        (folder / CAUSES).unlink(missing_ok=True)
    return [folder / name for name in files]


def _figures(report: Report) -> dict[str, bytes]:
    try:
        from ...analysis import plots
    except ModuleNotFoundError as error:
        log.warning("no figures are drawn, only their numbers written: %s; pip install matplotlib", error)
        return {}
    drawn = {"strip.png": _columns(report.arms, report.spreads)}
    if report.causes:
        drawn[CAUSES] = _cause_columns(report)
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
