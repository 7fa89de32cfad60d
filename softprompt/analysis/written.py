"""An analysis as a folder: its numbers as JSON, and its figure."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..store import json_bytes, refuse_no_place, write_folder
from .analyses import Analysis

log = logging.getLogger("softprompt")


def refuse_exists(folder: Path, what: str) -> None:
    """Refuse a folder that is there, or that cannot be made, before anything is computed.

    Raises:
        BadInput: it exists.
        StorageFailure: it cannot be made.
    """
    if os.path.lexists(folder):
        raise BadInput(f"{str(folder)!r} exists already; remove it, or choose another --output")
    refuse_no_place(folder, what)


def write(name: str, analysis: Analysis, values: Mapping[str, Any], folder: Path, *, kind: str) -> Path:
    """Write NAME.json and the figure into a new folder.

    Without the plotting library the numbers are written alone, with a warning.

    Args:
        name: of the analysis.
        analysis: which draws the values.
        values: what it has computed.
        folder: the new folder.
        kind: "png" or "svg".

    Raises:
        BadInput: the folder exists.
        StorageFailure: it cannot be written.
    """
    contents = {f"{name}.json": json_bytes(values)}
    try:
        from . import analysis_figures, plots

        file = f"{name}.{kind}"
        contents[file] = plots.image(analysis.draw(values, analysis_figures), file)
    except ModuleNotFoundError as error:
        log.warning("no figure is drawn, only its numbers written: %s; pip install 'softprompt[plots]'", error)
    return write_folder(folder, contents, what=f"the analysis {name}", manifest=False)
