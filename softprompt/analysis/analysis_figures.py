"""Figures of `softprompt analyze` from plain arrays; those that reports have are drawn by the same functions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .page_figures import similarity_figure as similarity_figure
from .plots import COLORS, Curve, Figure, new_figure
from .plots import curve_figure as curve_figure
from .plots import strip_figure as strip_figure

GRAY = "#7a7f87"


def norm_and_score_figure(
    norms: Mapping[str, Curve], scores: Mapping[str, Curve], *, band: tuple[float, float]
) -> Figure:
    """Draw norms over steps above the validation scores over the same steps, one colour for each prompt.

    Args:
        norms: for each prompt its steps and its norms in token norms; a norm of zero leaves a gap.
        scores: for each prompt its evaluated steps and its scores.
        band: the range of norms in which prompts learned well.
    """
    figure = new_figure(6.4, 5.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.axhspan(*band, color="0.9", zorder=0, label=f"band {band[0]:g} to {band[1]:g}")
    for number, name in enumerate(norms):
        color = COLORS[number % len(COLORS)]
        heights = np.asarray(norms[name][1], dtype=float)
        above.plot(norms[name][0], np.where(heights > 0, heights, math.nan), color=color, linewidth=1.3, label=name)
        below.plot(*scores[name], color=color, linewidth=1.3, marker="o", markersize=3)
    above.set_yscale("log")
    above.set(ylabel="norm, in token norms")
    below.set(xlabel="optimiser step", ylabel="validation score")
    figure.legend(loc="outside upper left", ncols=2, fontsize="small")
    return figure


def copies_figure(curves: Mapping[str, tuple[Sequence[int], Sequence[float], float]]) -> Figure:
    """Draw the score of one vector over the number of its copies, and that of the whole prompt as a dashed line.

    Args:
        curves: for each prompt the numbers of copies, their scores, and the score of the whole prompt.
    """
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    for number, (name, (lengths, scores, whole)) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        axes.plot(lengths, scores, marker="o", markersize=4, linewidth=1.3, color=color, label=name)
        axes.axhline(whole, color=color, linestyle="--", linewidth=1, alpha=0.8)
    every = sorted({length for lengths, _, _ in curves.values() for length in lengths})
    axes.set_xticks(every)
    axes.set(xlabel="copies of one vector (dashed: the whole prompt)", ylabel="test score")
    figure.legend(loc="outside upper left", ncols=2, fontsize="small")
    return figure


def bars_figure(names: Sequence[str], bars: Mapping[str, Sequence[float | None]], *, label: str) -> Figure:
    """Draw bars beside each other for each name, one colour for each kind.

    Args:
        names: along the axis.
        bars: for each kind its height at each name; None has no bar.
        label: what the heights are.
    """
    figure = new_figure(max(6.4, 1.6 * len(names) + 1.0), 4.2)
    axes = figure.add_subplot()
    width = 0.8 / len(bars)
    for number, (kind, heights) in enumerate(bars.items()):
        places = np.arange(len(names)) + (number - (len(bars) - 1) / 2) * width
        tall = [math.nan if height is None else height for height in heights]
        axes.bar(places, tall, width * 0.92, color=COLORS[number % len(COLORS)], label=kind)
    axes.set_xticks(range(len(names)), names, rotation=15 if len(names) > 3 else 0)
    axes.set(ylabel=label)
    figure.legend(loc="outside upper left", ncols=3, fontsize="small")
    return figure


def neighbors_figure(words: Sequence[Sequence[tuple[str, float, bool]]], *, title: str = "") -> Figure:
    """Draw the words nearest to each vector at their cosine; label words are orange.

    Args:
        words: for each vector its nearest words, their cosines, and whether they are label words.
        title: title of the figure.
    """
    figure = new_figure(6.8, 0.42 * len(words) + 1.1)
    axes = figure.add_subplot()
    for place, nearest in enumerate(words):
        axes.plot([value for _, value, _ in nearest], [place] * len(nearest), marker="o", markersize=3, linestyle="",
                  color=GRAY)  # fmt: skip
        named = ", ".join(f"{word}*" if is_label else word for word, _, is_label in nearest[:3])
        color = COLORS[1] if any(is_label for _, _, is_label in nearest[:3]) else COLORS[0]
        axes.annotate(named, (nearest[0][1], place), (6, 0), textcoords="offset points", va="center", color=color,
                      fontsize="small", annotation_clip=False)  # fmt: skip
    axes.set_yticks(range(len(words)), [f"vector {place}" for place in range(len(words))])
    axes.set(xlabel="cosine to the nearest words (* a label word)", title=title, ylim=(len(words) - 0.5, -0.5))
    axes.margins(x=0.35)
    return figure


def matrix_figure(values: Any, rows: Sequence[str], columns: Sequence[str], *, label: str) -> Figure:
    """Draw a matrix with its numbers.

    Args:
        values: [r, c].
        rows: names of the rows.
        columns: names of the columns.
        label: what the numbers are.
    """
    matrix = np.asarray(values, dtype=float)
    figure = new_figure(0.95 * len(columns) + 3.2, 0.5 * len(rows) + 1.6)
    axes = figure.add_subplot()
    edges = np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
    colored = axes.pcolormesh(*edges, matrix, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for (row, column), value in np.ndenumerate(matrix):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="#ffffff" if value > 0.55 else "#12233d")
    axes.set_xticks(range(len(columns)), columns, rotation=20 if max(map(len, columns)) > 9 else 0)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.grid(visible=False)
    figure.colorbar(colored, ax=axes, label=label)
    return figure


def heads_figure(panels: Mapping[str, Any]) -> Figure:
    """Draw a matrix of layers by heads for each prompt, on one scale from 0.

    Args:
        panels: for each prompt the shares [k, h].
    """
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    deepest, widest = (max(np.shape(values)[axis] for values in panels.values()) for axis in (0, 1))
    figure = new_figure((0.32 * widest + 1.5) * columns + 1.0, (0.32 * deepest + 1.1) * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    highest = max(float(np.max(values)) for values in panels.values())
    colored = None
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (name, values) in zip(grid.flat, panels.items(), strict=False):
        shares = np.asarray(values, dtype=float)
        edges = np.arange(shares.shape[1] + 1) + 0.5, np.arange(shares.shape[0] + 1) + 0.5
        colored = axes.pcolormesh(*edges, shares, cmap="viridis", vmin=0, vmax=highest)
        axes.set(title=name, xlabel="head", ylabel="layer", xticks=range(1, shares.shape[1] + 1),
                 yticks=range(1, shares.shape[0] + 1))  # fmt: skip
        axes.invert_yaxis()
        axes.grid(visible=False)
    if colored is not None:
        figure.colorbar(colored, ax=list(figure.axes), label="attention to the prompt")
    return figure


def words_figure(lines: Sequence[tuple[str, Sequence[str], Sequence[float]]], *, title: str = "") -> Figure:
    """Draw the words of some texts as bars of what they carry: to the right for the label, to the left against it.

    Args:
        lines: for each text its heading, its tokens, and what each carries.
        title: title of the figure.
    """
    columns = 2
    rows = -(-len(lines) // columns)
    longest = max(len(tokens) for _, tokens, _ in lines)
    figure = new_figure(8.2, (0.17 * longest + 0.75) * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes in grid.flat[len(lines) :]:
        axes.remove()
    for axes, (heading, tokens, values) in zip(grid.flat, lines, strict=False):
        colors = [COLORS[0] if value >= 0 else COLORS[1] for value in values]
        axes.barh(range(len(tokens)), values, color=colors, height=0.75)
        axes.set_yticks(range(len(tokens)), tokens, fontsize="x-small")
        axes.set_title(heading, fontsize="small")
        axes.axvline(0, color=GRAY, linewidth=0.8)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
    figure.supxlabel("share of the log-probability of the right label, in nats", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure
