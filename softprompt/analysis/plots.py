"""Figures from plain arrays; the only module that knows the plotting library.

A figure is a value: nothing here touches pyplot, so no figure is left open and no setting of the caller's changes.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import UnknownName

FORMATS = ("png", "svg")
# Okabe and Ito's colours, which most colour-blind readers tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
Curve = tuple[Sequence[int], Sequence[float]]


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


def _figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, drawn without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
