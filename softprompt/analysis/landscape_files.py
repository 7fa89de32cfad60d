"""The folder of drawn landscapes: their numbers, and the figures."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from ..settings import LandscapeSettings
from ..store import json_bytes, write_folder
from .landscape import coordinates
from .stored_landscapes import Drawn, refuse_two_losses

log = logging.getLogger("softprompt")
# The characters "/" and " " become "-" in the file name of a figure.
SEPARATORS = str.maketrans("/ ", "--")


def write(drawn: Sequence[Drawn], folder: Path, settings: LandscapeSettings, *, compare: bool, kind: str) -> Path:
    """Write a new folder with `landscape.json` and the figures: one per prompt, or one of all on the same scale.

    If the plotting library is not installed, only the numbers are written, with a warning.

    Args:
        drawn: landscapes over the same grid.
        folder: the new folder, which must not exist.
        settings: the settings of the planes.
        compare: whether all landscapes are drawn side by side.
        kind: "png" or "svg".

    Raises:
        BadInput: the folder exists, or `compare` would put squared errors and cross entropies on one scale.
        StorageFailure: the disk is full or not writable.
    """
    if compare:
        refuse_two_losses([d.landscape.measure for d in drawn])
    axis = coordinates(settings.grid).tolist()
    numbers = {"settings": dataclasses.asdict(settings), "coordinates": axis, "prompts": [d.to_json() for d in drawn]}
    contents = {"landscape.json": json_bytes(numbers), **_figures(drawn, axis, compare, kind)}
    return write_folder(folder, contents, what="the landscape", manifest=False)


def _figures(drawn: Sequence[Drawn], axis: Sequence[float], compare: bool, kind: str) -> dict[str, bytes]:
    try:
        from . import plots
    except ModuleNotFoundError as error:
        log.warning("no figures are drawn, only their numbers written: %s; pip install matplotlib", error)
        return {}
    groups = {"": drawn} if compare else {f"{d.subject.label.translate(SEPARATORS)}-": [d] for d in drawn}
    figures: dict[str, bytes] = {}
    for prefix, group in groups.items():
        panels = {_title(d): d.landscape.mean_surface.numpy() for d in group}
        measure = group[0].landscape.measure
        for name, figure in (("surface", plots.surface_figure), ("contour", plots.contour_figure)):
            file = f"{prefix}{name}.{kind}"
            figures[file] = plots.image(figure(panels, axis, measure=measure), file)
    return figures


def _title(drawn: Drawn) -> str:
    """Return the name of the prompt and its score, without which a surface says nothing."""
    name = "score" if drawn.majority is None else "accuracy"
    return f"{drawn.subject.label}\n{name} {drawn.metrics[name]:.3f}"
