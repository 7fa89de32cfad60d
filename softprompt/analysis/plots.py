"""Figures from plain arrays. This is the only module that imports the plotting library.

Nothing here uses pyplot, so no figure stays open and no setting of the caller changes.
"""

import contextlib
import io
import math
import re
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
# The axes of a landscape: along the gradient, and orthogonal to it.
DIRECTIONS = ("a (gradient)", "b (random)")
LEVELS = 21
# What a figure in a page is drawn in, and what stands for it there: a page has colours for day and for night.
_INK, _GRID = "#010203", "#010204"
_IN_PAGE = {_INK: "currentColor", _GRID: "var(--grid)", "#000000": "currentColor", "#e6e6e6": "var(--band)"}
_PAGE_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": "medium",
    "axes.edgecolor": _GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
Curve = tuple[Sequence[int], Sequence[float]]
Ends = Sequence[float | None]
Line = tuple[Sequence[int | float], Sequence[float], Ends | None, Ends | None]


def image(figure: Figure, name: str) -> bytes:
    """Return the bytes of the figure as PNG or SVG, by the suffix of `name`. Equal figures give equal bytes.

    Raises:
        UnknownName: the suffix is neither png nor svg.
    """
    kind = name.rpartition(".")[2].lower()
    if kind not in FORMATS:
        raise UnknownName("format of a figure", kind, FORMATS)
    file = io.BytesIO()
    # None drops the date and the version from the file.
    metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    # The ids in an SVG follow from a salt, which would otherwise be random.
    with matplotlib.rc_context({"svg.hashsalt": "softprompt"}):
        figure.savefig(file, format=kind, dpi=120, metadata=metadata)
    return file.getvalue()


@contextlib.contextmanager
def page_style() -> Iterator[None]:
    """Within the `with` block, figures are drawn as a page shows them; `page_svg` has to be called in it too."""
    with matplotlib.rc_context(_PAGE_STYLE):
        yield


def page_svg(figure: Figure, name: str, size: tuple[float, float] | None = None) -> str:
    """Return the figure as an SVG element for a page of HTML, in the page's own colours and font.

    Texts stay texts, so that they can be read, searched and enlarged. Equal figures give equal elements.

    Args:
        figure: drawn in `page_style`.
        name: begins every id in the element, so that two figures of a page have none in common.
        size: width and height in inches; None leaves those of the figure.
    """
    if size is not None:
        figure.set_size_inches(*size)
    text = image(figure, "figure.svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    # A hundredth of a point is finer than any screen, and a figure of a hundred runs half as large.
    text = re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", text)
    text = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*|(?<=px )'[^;\"]*", lambda match: _inherited(match[0]), text)
    colors = _IN_PAGE | {color.lower(): f"var(--series-{number})" for number, color in enumerate(COLORS)}
    text = re.sub(r"#[0-9a-f]{6}\b", lambda match: colors.get(match[0], match[0]), text)
    # The page sets the width; the height follows from the view box.
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    return re.sub(r"\n\s*", "\n", text).strip()


def _inherited(font: str) -> str:
    """The name of a font in an SVG as that of the page."""
    return "font-family: var(--font)" if font.startswith("font-family") else "var(--font)"


def norm_figure(curves: Mapping[str, Sequence[Curve]], *, band: tuple[float, float], title: str = "") -> Figure:
    """Draw norms over steps on a log scale, with one colour per method, one line per seed, and the band shaded.

    Args:
        curves: for each method one pair (steps, mean norms in token norms) per seed; a norm of zero leaves a gap.
        band: the range of norms in which prompts learned well.
        title: title of the figure.
    """
    figure = new_figure(6.4, 4.0)
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
    """Draw two cosine matrices per row: of a prompt's vectors before the first step, and after training.

    Args:
        pairs: for each method the two matrices [m, m]; NaN stays white.
        title: title of the figure.
    """
    figure = new_figure(6.4, 2.9 * len(pairs) + 0.3)
    grid = figure.subplots(len(pairs), 2, squeeze=False)
    colored = None
    for row, (method, matrices) in zip(grid, pairs.items(), strict=True):
        for axes, matrix, when in zip(row, matrices, ("step 0", "trained"), strict=True):
            colored = axes.imshow(np.asarray(matrix, dtype=float), cmap="RdBu_r", vmin=-1, vmax=1)
            axes.set(title=f"{method}, {when}", xticks=[], yticks=[])
    if colored is not None:
        figure.colorbar(colored, ax=grid, label="cosine", shrink=0.8)
    figure.suptitle(title)
    return figure


def surface_figure(surfaces: Mapping[str, Any], axis: Sequence[float], *, measure: str) -> Figure:
    """Draw surfaces in perspective, side by side, with the same scale of height and colour.

    Args:
        surfaces: for each title the heights [g, g] at axis[i] along the first direction and axis[j] along the second.
        axis: the g coordinates of both directions.
        measure: name of the heights.
    """
    rows, columns = _panels(len(surfaces))
    figure = new_figure(4.4 * columns + 0.8, 4.0 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "3d"})
    a, b = np.meshgrid(axis, axis, indexing="ij")
    low, high = _limits(surfaces)
    for axes, (title, heights) in _filled(grid, surfaces):
        axes.plot_surface(
            a, b, np.asarray(heights, dtype=float), cmap="viridis", vmin=low, vmax=high, rstride=1, cstride=1
        )
        axes.set(title=title, xlabel=DIRECTIONS[0], ylabel=DIRECTIONS[1], zlabel=measure, zlim=(low, high))
        # The label of the heights stands outside the box and needs space.
        axes.set_box_aspect(None, zoom=0.85)
    return figure


def contour_figure(surfaces: Mapping[str, Any], axis: Sequence[float], *, measure: str) -> Figure:
    """Draw surfaces as contours, side by side, with the same levels and colours. A cross marks the centre.

    Args:
        surfaces: as in `surface_figure`.
        axis: as in `surface_figure`.
        measure: name of the quantity that the colours show.
    """
    rows, columns = _panels(len(surfaces))
    figure = new_figure(3.6 * columns + 1.0, 3.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    low, high = _limits(surfaces)
    levels = np.linspace(low, high, LEVELS)
    colored = None
    for axes, (title, heights) in _filled(grid, surfaces):
        # contourf draws the second axis to the right, so the transpose puts the first direction there.
        heights = np.asarray(heights, dtype=float).T
        colored = axes.contourf(axis, axis, heights, levels=levels, cmap="viridis")
        axes.contour(axis, axis, heights, levels=levels, colors="black", linewidths=0.3)
        axes.plot([0], [0], marker="+", color="white")
        axes.set(title=title, xlabel=DIRECTIONS[0], ylabel=DIRECTIONS[1], aspect="equal")
    if colored is not None:
        figure.colorbar(colored, ax=figure.axes, label=measure, shrink=0.8)
    return figure


def _panels(count: int) -> tuple[int, int]:
    """Return the rows and columns of a grid for `count` panels, with at most four panels per row."""
    columns = min(count, 4)
    return -(-count // columns), columns


def _filled(grid: Any, surfaces: Mapping[str, Any]) -> Iterator[tuple[Any, tuple[str, Any]]]:
    """Yield the axes of each panel with its title and heights, after the unused axes are removed."""
    for axes in grid.flat[len(surfaces) :]:
        axes.remove()
    yield from zip(grid.flat, surfaces.items(), strict=False)


def _limits(surfaces: Mapping[str, Any]) -> tuple[float, float]:
    """Return the lowest and the highest height of all surfaces. They differ even if all surfaces are flat."""
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
    """Draw every score as a dot, with one column per arm. The n-th score of each arm has the same offset.

    Args:
        arms: for each name the scores. A score is None where a run was dropped; their number stands under the name.
            Names with the same first line share a colour.
        means: for each name a mean and the ends of its interval, drawn as a line and a bar; None is left out.
        chance: score of the same answer for every row, drawn as a dashed line.
        title: title of the figure.
    """
    figure = new_figure(max(6.4, 1.0 * len(arms) + 1.6), 4.0)
    axes = figure.add_subplot()
    names, families = [], list(dict.fromkeys(name.partition("\n")[0] for name in arms))
    for column, (name, scores) in enumerate(arms.items()):
        color = COLORS[families.index(name.partition("\n")[0]) % len(COLORS)]
        heights = np.asarray([math.nan if score is None else score for score in scores], dtype=float)
        # Multiples of the golden ratio modulo 1 are spread evenly for any number of dots, without randomness.
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
        axes.axhline(chance, color="0.5", linestyle="--", linewidth=1, label="always the same answer")
        # Inside the axes the legend would hide dots.
        figure.legend(fontsize="small", loc="outside lower right")
    axes.set(ylabel="test score", xlim=(-0.6, len(names) - 0.4))
    axes.set_title(title, fontsize="medium")
    axes.set_xticks(range(len(names)), names, rotation=30 if len(names) > 6 else 0)
    return figure


def curve_figure(
    curves: Mapping[str, Line], *, x: str, y: str, log_x: bool, log_y: bool = False, title: str = ""
) -> Figure:
    """Draw means over a varied quantity, with one line per curve and the intervals as bars.

    Args:
        curves: for each name the values of x, the means, and the lower and upper ends of their intervals; None where a
            curve or a point has no interval.
        x: name of the varied quantity.
        y: name of the quantity whose means are drawn.
        log_x: whether x has a logarithmic scale.
        log_y: whether y has a logarithmic scale.
        title: title of the figure.
    """
    figure = new_figure(6.4, 4.0)
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


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, which needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
