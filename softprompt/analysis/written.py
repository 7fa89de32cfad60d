"""An analysis as a folder: its numbers as JSON, and its figure."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..store import json_bytes, write_folder
from .analyses import Analysis

log = logging.getLogger("softprompt")


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
