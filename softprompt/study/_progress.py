"""The progress of a study: how many runs are stored, trained here, trained elsewhere, and left."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ._fleets import Claim
from ._spec import RunSpec
from ._stored import stored_names

Show = Callable[[Claim], None]


@contextlib.contextmanager
def progress_bar(show: bool, store: Path, specs: Sequence[RunSpec]) -> Iterator[Show]:
    """A progress bar on standard error, which each claim updates; nothing if `show` is False."""
    if not show:
        yield lambda claimed: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..training import bar_console

    names = {spec.name for spec in specs}
    columns = (TextColumn("study"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[state]}"), console=bar_console()) as progress:
        bar_id = progress.add_task("study", total=len(names), state="")

        def look(claimed: Claim) -> None:
            done = len(names & stored_names(store))
            progress.update(bar_id, completed=done, state=state(claimed, len(names) - done))

        yield look
        progress.update(bar_id, completed=len(names & stored_names(store)), state="")


def state(claimed: Claim, left: int) -> str:
    """One line: the runs trained here, those that other processes hold, and those left."""
    here = claimed.fleet.specs if claimed.fleet else ()
    parts = []
    if here:
        parts.append(f"{len(here)} running ({here[0].prompt.method}, {here[0].declared.name}, {here[0].model})")
    if claimed.busy:
        parts.append(f"{len(claimed.busy)} in other processes")
    waiting = left - len(here) - len(claimed.busy)
    return ", ".join([*parts, f"{max(0, waiting)} left"])
