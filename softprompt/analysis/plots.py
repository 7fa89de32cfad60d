"""Figures from plain arrays; the only module that knows the plotting library.

A figure is a value: nothing here touches pyplot, so no figure is left open and no setting of the caller's changes.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import UnknownName

FORMATS = ("png", "svg")
# Okabe and Ito's colours, which most colour-blind readers tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
# Of a landscape: along the gradient, and at a right angle to it.
DIRECTIONS = ("a (gradient)", "b (random)")
LEVELS = 21
Curve = tuple[Sequence[int], Sequence[float]]
Ends = Sequence[float | None]
Line = tuple[Sequence[int | float], Sequence[float], Ends | None, Ends | None]


def image(figure: Figure, name: str) -> bytes:
    """The figure as the file `name` holds it, PNG or SVG by its ending; the same figure gives the same bytes.

    Raises:
        UnknownName: another ending.
    """
    kind = name.rpartition(".")[2].lower()
    if kind not in FORMATS:
        raise UnknownName("format of a figure", kind, FORMATS)
    file = io.BytesIO()
    # Without date and version.
    nothing: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    # SVG's ids follow from a salt, which is drawn anew for each file if none is set.
    with matplotlib.rc_context({"svg.hashsalt": "softprompt"}):
        figure.savefig(file, format=kind, dpi=120, metadata=nothing)
    return file.getvalue()


def norm_figure(curves: Mapping[str, Sequence[Curve]], *, band: tuple[float, float], title: str = "") -> Figure:
    """Norms over steps on a log scale, one colour a method, one line a seed, the band shaded.

    Args:
        curves: by method, one (steps, mean norms in token norms) a seed; a norm of zero is a gap.
        band: the norms between which prompts were seen to learn well.
        title: above the figure.
    """
    figure = _figure(6.4, 4.0)
    axes = figure.add_subplot()
    axes.axhspan(*band, color="0.9", zorder=0, label=f"band {band[0]:g}-{band[1]:g}")
    for number, (method, lines) in enumerate(curves.items()):
        for first, (steps, values) in enumerate(lines):
            heights = np.asarray(values, dtype=float)
            heights = np.where(heights > 0, heights, math.nan)
            label = method if first == 0 else None
            axes.plot(np.asarray(steps), heights, color=COLORS[number % len(COLORS)], linewidth=1.2, label=label)
    axes.set_yscale("log")
    axes.set(title=title, xlabel="optimiser step", ylabel="mean norm of a prompt vector, in token norms")
    axes.legend(fontsize="small")
    return figure


def cosine_figure(pairs: Mapping[str, tuple[Any, Any]], *, title: str = "") -> Figure:
    """Two cosine matrices a row: of a prompt's vectors before the first step, and as they are stored.

    Args:
        pairs: by method, the two matrices [m, m]; NaN is left white.
        title: above the figure.
    """
    figure = _figure(6.4, 2.9 * len(pairs) + 0.3)
    grid = figure.subplots(len(pairs), 2, squeeze=False)
    shown = None
    for row, (method, matrices) in zip(grid, pairs.items(), strict=True):
        for axes, matrix, when in zip(row, matrices, ("step 0", "trained"), strict=True):
            shown = axes.imshow(np.asarray(matrix, dtype=float), cmap="RdBu_r", vmin=-1, vmax=1)
            axes.set(title=f"{method}, {when}", xticks=[], yticks=[])
    if shown is not None:
        figure.colorbar(shown, ax=grid, label="cosine", shrink=0.8)
    figure.suptitle(title)
    return figure


def surface_figure(
    surfaces: Mapping[str, Any], axis: Sequence[float], *, measure: str, directions: tuple[str, str] = DIRECTIONS
) -> Figure:
    """Surfaces over their planes in perspective, side by side, all on one scale of height and colour.

    Args:
        surfaces: by title, heights [g, g] at axis[i] along the first direction and axis[j] along the second.
        axis: the g coordinates of both.
        measure: what the heights are.
        directions: names of the two.
    """
    rows, columns = _panels(len(surfaces))
    figure = _figure(4.4 * columns + 0.8, 4.0 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "3d"})
    a, b = np.meshgrid(axis, axis, indexing="ij")
    low, high = _limits(surfaces)
    for axes, (title, heights) in _filled(grid, surfaces):
        axes.plot_surface(
            a, b, np.asarray(heights, dtype=float), cmap="viridis", vmin=low, vmax=high, rstride=1, cstride=1
        )
        axes.set(title=title, xlabel=directions[0], ylabel=directions[1], zlabel=measure, zlim=(low, high))
        # Room for the label of the heights, which stands outside the box.
        axes.set_box_aspect(None, zoom=0.85)
    return figure


def contour_figure(
    surfaces: Mapping[str, Any], axis: Sequence[float], *, measure: str, directions: tuple[str, str] = DIRECTIONS
) -> Figure:
    """Surfaces from above, side by side, with the same levels and colours in all; a cross where nothing is moved.

    Args:
        surfaces: as of `surface_figure`.
        axis: likewise.
        measure: what the colours are.
        directions: names of the two.
    """
    rows, columns = _panels(len(surfaces))
    figure = _figure(3.6 * columns + 1.0, 3.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    low, high = _limits(surfaces)
    levels = np.linspace(low, high, LEVELS)
    shown = None
    for axes, (title, heights) in _filled(grid, surfaces):
        # Transposed: the first axis of the heights runs to the right.
        heights = np.asarray(heights, dtype=float).T
        shown = axes.contourf(axis, axis, heights, levels=levels, cmap="viridis")
        axes.contour(axis, axis, heights, levels=levels, colors="black", linewidths=0.3)
        axes.plot([0], [0], marker="+", color="white")
        axes.set(title=title, xlabel=directions[0], ylabel=directions[1], aspect="equal")
    if shown is not None:
        figure.colorbar(shown, ax=figure.axes, label=measure, shrink=0.8)
    return figure


def _panels(count: int) -> tuple[int, int]:
    """Rows and columns of as many panels, four in a row at most."""
    columns = min(count, 4)
    return -(-count // columns), columns


def _filled(grid: Any, surfaces: Mapping[str, Any]) -> Iterator[tuple[Any, tuple[str, Any]]]:
    """Each panel's axes with its title and heights; what is left over is taken away."""
    for axes in grid.flat[len(surfaces) :]:
        axes.remove()
    yield from zip(grid.flat, surfaces.items(), strict=False)


def _limits(surfaces: Mapping[str, Any]) -> tuple[float, float]:
    """Lowest and highest height of all; a plane that is level everywhere still has a scale."""
    low = min(float(np.min(heights)) for heights in surfaces.values())
    high = max(float(np.max(heights)) for heights in surfaces.values())
    return low, max(high, low + 1e-6 * max(1.0, abs(low)))


def strip_figure(
    arms: Mapping[str, Sequence[float | None]],
    *,
    means: Mapping[str, tuple[float | None, float | None, float | None]] | None = None,
    chance: float | None = None,
    title: str = "",
) -> Figure:
    """Every score as a dot, one column an arm; the n-th of each stands at the same place of its column.

    Args:
        arms: by name, the scores; None, which a dropped run has, is counted under the name. Names with the same first
            line share a colour.
        means: by name, a mean and the ends of its interval, drawn as a line and a bar; None is left out.
        chance: drawn as a dashed line.
        title: above the figure.
    """
    figure = _figure(max(6.4, 1.0 * len(arms) + 1.6), 4.0)
    axes = figure.add_subplot()
    names, families = [], list(dict.fromkeys(name.partition("\n")[0] for name in arms))
    for column, (name, scores) in enumerate(arms.items()):
        color = COLORS[families.index(name.partition("\n")[0]) % len(COLORS)]
        heights = np.asarray([math.nan if score is None else score for score in scores], dtype=float)
        # Multiples of the golden ratio, modulo 1: spread evenly however many there are, and never at random.
        offsets = (np.arange(len(heights)) * 0.6180339887 % 1 - 0.5) * 0.5
        axes.scatter(column + offsets, heights, s=16, color=color, alpha=0.7, linewidths=0)
        mean, low, high = (means or {}).get(name, (None, None, None))
        if mean is not None:
            axes.hlines(mean, column - 0.35, column + 0.35, color=color, linewidth=2)
        if low is not None and high is not None:
            axes.vlines(column + 0.38, low, high, color=color, linewidth=2)
        missing = int(np.isnan(heights).sum())
        names.append(f"{name}\n({missing} without a score)" if missing else name)
    if chance is not None:
        axes.axhline(chance, color="0.5", linestyle="--", linewidth=1, label="always the same class")
        # Beside the axes: within, it would hide dots.
        figure.legend(fontsize="small", loc="outside lower right")
    axes.set(ylabel="test score", xlim=(-0.6, len(names) - 0.4))
    axes.set_title(title, fontsize="medium")
    axes.set_xticks(range(len(names)), names, rotation=30 if len(names) > 6 else 0)
    return figure


def curve_figure(
    curves: Mapping[str, Line], *, x: str, y: str, log_x: bool, log_y: bool = False, title: str = ""
) -> Figure:
    """Means over a quantity that was varied, one line a curve, with the ends of their intervals as bars.

    Args:
        curves: by name, places along x, the means there, and the lower and upper ends of their intervals; None where
            there is none, of a curve or of a point.
        x: what is varied.
        y: what the means are of.
        log_x: whether x has a logarithmic scale.
        log_y: likewise.
        title: above the figure.
    """
    figure = _figure(6.4, 4.0)
    axes = figure.add_subplot()
    for number, (name, (places, means, lows, highs)) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        axes.plot(places, means, marker="o", markersize=4, linewidth=1.2, color=color, label=name)
        if lows is not None and highs is not None:
            ends = [(p, a, b) for p, a, b in zip(places, lows, highs, strict=True) if a is not None and b is not None]
            axes.vlines(
                [p for p, _, _ in ends], [a for _, a, _ in ends], [b for _, _, b in ends], color=color, alpha=0.6
            )
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    axes.set(title=title, xlabel=x, ylabel=y)
    if curves:
        axes.legend(fontsize="small")
    return figure


def _figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, drawn without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
