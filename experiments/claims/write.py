"""The page and its figures as files."""

import logging
from collections.abc import Mapping
from pathlib import Path

from softprompt.store import write_file

from .claim import Claim
from .page import FIGURES, has_figure, page, tables
from .results import Results
from .table import CLAIMS

log = logging.getLogger("softprompt")


def write(
    results: Results, folder: "Path | str", claims: Mapping[str, Claim] = CLAIMS, *, numbers: Path | None = None
) -> Path:
    """Write claims.md and, below it, the figures, and return the page's path; existing files are replaced.

    Args:
        results: of the study.
        folder: of the page.
        claims: by name.
        numbers: a file for every check and its numbers; None writes none.

    Without the plotting library there are no figures, and a warning says so.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    folder = Path(folder)
    try:
        from softprompt.analysis import plots
    except ModuleNotFoundError as error:
        log.warning("no figures are drawn: %s; pip install matplotlib", error)
        plots = None
    for name, claim in claims.items():
        if plots is None or claim.figure is None or not has_figure(results, claim):
            continue
        # Runs of which none can be drawn leave empty axes: the page follows from the results alone, and links it.
        figure = claim.figure(results, plots) or plots.curve_figure({}, x="", y="", log_x=False, title="no run to draw")
        target = folder / FIGURES / f"{name}.png"
        write_file(target, plots.image(figure, target.name), what="a figure", replace=True)
    if numbers is not None:
        write_file(numbers, tables(results, claims).encode(), what="the tables of the claims", replace=True)
    return write_file(folder / "claims.md", page(results, claims).encode(), what="the page of claims", replace=True)
