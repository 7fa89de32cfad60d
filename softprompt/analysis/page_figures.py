"""Figures of a report from plain arrays: scores beside each other, curves of many runs, answers by class."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .plots import COLORS, Curve, Figure, new_figure

Bar = tuple[str, float, float | None, float | None, bool]


def ladder_figure(lines: Sequence[Bar]) -> Figure:
    """Draw scores as dots in rows, each with its interval, so that their order and overlap are seen.

    Args:
        lines: for each row its name, the score, the ends of its interval or None, and whether it was trained.
    """
    deepest = max(name.count("\n") + 1 for name, *_ in lines)
    figure = new_figure(4.9, (0.19 * deepest + 0.16) * len(lines) + 0.65)
    axes = figure.add_subplot()
    for place, (_, score, low, high, is_trained) in enumerate(lines):
        color = COLORS[0] if is_trained else "#7a7f87"
        if low is not None and high is not None:
            axes.hlines(place, low, high, color=color, linewidth=3, alpha=0.45)
        axes.plot([score], [place], marker="o", markersize=8 if is_trained else 6, color=color)
    axes.set_yticks(range(len(lines)), [name for name, *_ in lines])
    axes.set(xlabel="test score", ylim=(len(lines) - 0.5, -0.5))
    axes.margins(x=0.08)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


def learning_figure(
    curves: Mapping[str, Sequence[Curve]],
    *,
    y: str,
    log_y: bool = False,
    chance: float | None = None,
    band: tuple[float, float] | None = None,
) -> Figure:
    """Draw one line for each run over the optimiser steps, in one colour for each setting.

    Args:
        curves: for each setting one pair (steps, values) for each run; NaN leaves a gap, and one step is a dot.
        y: name of the values.
        log_y: whether the values have a logarithmic scale; values that are not positive leave a gap.
        chance: drawn as a dashed line; None draws none.
        band: a range that is shaded; None shades none.
    """
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    if band is not None:
        axes.axhspan(*band, color="0.9", zorder=0, label=f"band {band[0]:g} to {band[1]:g}")
    for number, (setting, lines) in enumerate(curves.items()):
        for first, (steps, values) in enumerate(lines):
            heights = np.asarray(values, dtype=float)
            if log_y:
                heights = np.where(heights > 0, heights, math.nan)
            axes.plot(
                np.asarray(steps, dtype=float), heights, color=COLORS[number % len(COLORS)], linewidth=1.3,
                alpha=0.85 if len(lines) < 6 else 0.5, marker="o" if len(heights) == 1 else None, markersize=4,
                label=setting if first == 0 else None,
            )  # fmt: skip
    if chance is not None:
        axes.axhline(chance, color="#7a7f87", linestyle="--", linewidth=1, label="majority class")
    if log_y:
        axes.set_yscale("log")
    axes.set(xlabel="optimiser step", ylabel=y)
    figure.legend(loc="outside upper left", ncols=2, fontsize="small")
    return figure


def confusion_figure(counts: Any, labels: Sequence[str], answers: Sequence[str]) -> Figure:
    """Draw how often each class is answered as each other one, with the share of a row's class as its shade.

    Args:
        counts: [c, k] rows of the data by their class and by the answer.
        labels: names of the c classes.
        answers: names of the k answers.
    """
    values = np.asarray(counts, dtype=float)
    shares = values / np.maximum(values.sum(1, keepdims=True), 1)
    figure = new_figure(0.6 * len(answers) + 2.6, 0.5 * len(labels) + 1.6)
    axes = figure.add_subplot()
    edges = np.arange(len(answers) + 1) - 0.5, np.arange(len(labels) + 1) - 0.5
    axes.pcolormesh(*edges, shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for (row, column), count in np.ndenumerate(values):
        color = "#ffffff" if shares[row, column] > 0.55 else "#12233d"
        axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(answers)), answers, rotation=30 if max(map(len, answers)) > 8 else 0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="answered", ylabel="right")
    axes.invert_yaxis()
    axes.grid(visible=False)
    return figure


def calibration_figure(confidence: Any, accuracy: Any, counts: Any) -> Figure:
    """Draw the share of right answers over how sure the model is; on the diagonal both are equal.

    Args:
        confidence: [k] mean largest probability of each bin.
        accuracy: [k] share of right answers.
        counts: [k] rows, shown by the size of the dots.
    """
    figure = new_figure(4.2, 4.0)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#7a7f87", linestyle="--", linewidth=1, label="as sure as it is right")
    sizes = 20 + 180 * np.asarray(counts) / max(1, np.max(counts))
    axes.plot(confidence, accuracy, color=COLORS[0], linewidth=1.3)
    axes.scatter(confidence, accuracy, s=sizes, color=COLORS[0], alpha=0.75, linewidths=0, label="rows of one bin")
    low = max(0.0, float(np.min(confidence)) - 0.1)
    axes.set(xlim=(low, 1.03), ylim=(-0.03, 1.06), xlabel="mean confidence", ylabel="share of right answers")
    figure.legend(loc="outside upper left", ncols=2, fontsize="small")
    return figure


def similarity_figure(matrices: Mapping[str, Any], names: Mapping[str, Sequence[str]] | None = None) -> Figure:
    """Draw cosine matrices side by side on one scale from -1 to 1.

    Args:
        matrices: for each title a matrix [m, m]; NaN stays empty.
        names: for a title what its rows are, in their order, where that is more than a number.
    """
    columns = min(3, len(matrices))
    rows = math.ceil(len(matrices) / columns)
    shown = [name for title, rows_of in (names or {}).items() if title in matrices for name in rows_of]
    longest = max(map(len, shown), default=0)
    figure = new_figure(2.2 * columns + 1.0 + 0.07 * longest, 2.4 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    colored = None
    for axes in grid.flat[len(matrices) :]:
        axes.remove()
    for axes, (title, matrix) in zip(grid.flat, matrices.items(), strict=False):
        values = np.asarray(matrix, dtype=float)
        colored = axes.pcolormesh(values, cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set(title=title, xticks=[], yticks=[], aspect="equal")
        if names and title in names:
            axes.set_yticks(np.arange(len(values)) + 0.5, names[title], fontsize=7)
        axes.invert_yaxis()
        axes.grid(visible=False)
    if colored is not None:
        figure.colorbar(colored, ax=list(figure.axes), label="cosine", shrink=0.8)
    return figure
