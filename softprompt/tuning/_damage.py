"""Whether every file of a search is as it was written: its own documents, its rows, and the runs in it."""

from collections.abc import Iterator
from pathlib import Path

from ..documents import changed_files, faults_in
from ..run_layout import PLAN
from ..training import damage
from ._kept import stored_fields, stored_values
from ._report import REPORT, stored_report
from ._request import EARLIER_NAMES, MODEL, REQUEST
from ._rows import LISTED
from ._trials import read_waves


def is_search(folder: Path) -> bool:
    """Whether a folder is that of a search."""
    return (folder / REQUEST).is_file()


def damaged_search(folder: Path) -> Iterator[str]:
    """One line for each file of a search that is not as it was written."""
    yield from faults_in(lambda: stored_fields(folder / REQUEST, EARLIER_NAMES))
    yield from faults_in(lambda: read_waves(folder))
    documents = [folder / MODEL, folder / "step-seconds.json"]
    for path in sorted([*folder.rglob("asked.json"), *folder.rglob("answers-*.json"), *documents]):
        if path.is_file():
            yield from faults_in(lambda path=path: stored_values(path))
    if (folder / "frozen.json").is_file():
        yield from faults_in(lambda: stored_fields(folder / "frozen.json", ["baselines"]))
    if (folder / REPORT).is_file():
        yield from faults_in(lambda: stored_report(folder))
    rows = folder / LISTED
    if rows.is_file():
        # Searches of earlier versions do not list their rows.
        repair = "give the command of the search again, which writes it anew"
        yield from changed_files(lambda: stored_fields(rows, None), rows, repair)
    for plan in sorted(folder.rglob(PLAN)):
        yield from damage(plan.parent)
