"""The README's picture: test scores of every seed on three few-shot tasks, without restarts and with eight.

    python -m experiments.stability.picture

Reads results/stability_confirm.json alone and writes docs/images/restarts.png. Both settings are the default method,
prompt tuning in units of the word embeddings at a learning rate of 0.3.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..common.places import DOCS
from .study import read

PICTURE = DOCS / "images" / "restarts.png"
DEFAULT = "rms units, lr 0.3"
SETTINGS = {DEFAULT: "no restarts", f"{DEFAULT}, restarts 8": "eight restarts"}
TASKS = {
    "lab/weekend": "weekend, 64 rows",
    "lab/same-color": "same-color, 64 rows",
    "lab/entailment": "entailment, 32 rows",
}
# Vermilion and blue of Okabe and Ito: readers who cannot tell red from green can tell these apart.
COLORS = ("#D55E00", "#0072B2")
# Inches and dots: 1,600 pixels wide, so that it stays sharp where a page shows it at 800.
SIZE, DPI = (8.0, 3.9), 200
SPREAD = 0.22


def scores(results: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> dict[str, list[list[float]]]:
    """Test scores by task, one list a setting, over the seeds that all settings have."""
    chosen = {}
    for task in TASKS:
        cells = [results[task][setting] for setting in SETTINGS]
        seeds = [seed for seed in cells[0] if all(seed in cell for cell in cells)]
        chosen[task] = [[cell[seed]["score"] for seed in seeds] for cell in cells]
    return chosen


def picture(by_task: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """One panel a task: a dot a seed, and a line with its value at the mean of each setting."""
    figure = Figure(figsize=SIZE, layout="constrained")
    panels = figure.subplots(1, len(by_task), sharey=True)
    for axes, (task, columns) in zip(panels, by_task.items(), strict=True):
        axes.set_title(TASKS[task], fontsize=12)
        for place, (values, color) in enumerate(zip(columns, COLORS, strict=True)):
            _strip(axes, place, values, color)
        axes.set_xticks(range(len(columns)), SETTINGS.values(), fontsize=11)
        axes.set_xlim(-0.5, len(columns) - 0.35)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", labelsize=11)
    panels[0].set_ylabel("test accuracy", fontsize=12)
    seeds = len(next(iter(by_task.values()))[0])
    figure.supxlabel(f"One dot is one of {seeds} seeds. The line is the mean.", fontsize=11)
    return figure


def _strip(axes: Axes, place: float, values: Sequence[float], color: str) -> None:
    """Dots beside each other, shifted by fixed amounts so that equal scores stay visible."""
    shifts = np.random.default_rng(0).uniform(-SPREAD, SPREAD, len(values))
    axes.scatter(place + shifts, values, s=26, color=color, alpha=0.6, linewidths=0)
    mean = fmean(values)
    axes.hlines(mean, place - SPREAD - 0.06, place + SPREAD + 0.06, color="black", linewidth=2)
    axes.annotate(
        f"{mean:.3f}",
        (place + SPREAD + 0.06, mean),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=11,
    )


def main(path: Path = PICTURE) -> None:
    """Draw the picture and print where it is."""
    by_task = scores(read("confirm"))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib in the file the same results give the same bytes.
    picture(by_task).savefig(path, dpi=DPI, metadata={"Software": None})
    print(path)


if __name__ == "__main__":
    main()
