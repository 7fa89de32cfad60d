"""Whether every file of a search is as it was written: its own documents, its rows, and the runs in it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from ..documents import difference, listed_in
from ..errors import SoftPromptError
from ..training import damage
from ._kept import stored_fields, stored_values
from ._report import REPORT, stored_report
from ._request import REQUEST
from ._rows import LISTED
from ._trials import read_waves


def is_search(folder: Path) -> bool:
    """Whether a folder is that of a search."""
    return (folder / REQUEST).is_file()


def damaged_search(folder: Path) -> Iterator[str]:
    """One line for each file of a search that is not as it was written."""
    yield from _said(lambda: stored_fields(folder / REQUEST))
    yield from _said(lambda: read_waves(folder))
    for path in sorted([*folder.rglob("asked.json"), *folder.rglob("answers-*.json"), folder / "step-seconds.json"]):
        if path.is_file():
            yield from _said(lambda path=path: stored_values(path))
    if (folder / "frozen.json").is_file():
        yield from _said(lambda: stored_fields(folder / "frozen.json"))
    if (folder / REPORT).is_file():
        yield from _said(lambda: stored_report(folder))
    yield from _damaged_rows(folder)
    for plan in sorted(folder.rglob("run.json")):
        yield from damage(plan.parent)


def _damaged_rows(folder: Path) -> Iterator[str]:
    """The rows that are not those that were written; searches of earlier versions do not list them."""
    path = folder / LISTED
    if not path.is_file():
        return
    try:
        listed = listed_in(stored_fields(path), path)
    except SoftPromptError as error:
        yield error.message
        return
    for name, known in listed.items():
        try:
            fault = difference(path.parent / name, known)
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        if fault:
            yield f"{str(path.parent / name)!r} {fault}; give the command of the search again, which writes it anew"


def _said(read: Callable[[], object]) -> Iterator[str]:
    """What a reader says of damage."""
    try:
        read()
    except SoftPromptError as error:
        yield error.message
