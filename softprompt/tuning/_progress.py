"""The progress of a search: a bar on standard error with the time that is left, and what is being done."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any


class Watcher:
    """A callback of every run of a search, which moves the bar.

    Args:
        move: takes how much of the whole is done now, and a text.
        minutes: the budget, of which time is the measure; None counts runs.
        before: seconds that were spent before this process.
    """

    def __init__(self, move: Callable[[float, str], None], minutes: float | None, before: float):
        self.move, self.minutes, self.before = move, minutes, before
        self.start, self.runs, self.stage = time.monotonic(), 0.0, ""

    def tell(self, stage: str) -> None:
        """Say what is done now."""
        self.stage = stage
        self._moved()

    def on_step(self, step: Any) -> None:
        """Count the share of each prompt's run that this step is."""
        self.runs += len(step.losses) / step.steps
        self._moved()

    def _moved(self) -> None:
        spent = self.before + time.monotonic() - self.start
        self.move(self.runs if self.minutes is None else spent, self.stage)


@contextlib.contextmanager
def progress_bar(show: bool, minutes: float | None, runs: float, before: float) -> Iterator[Watcher]:
    """A progress bar on standard error, or in a notebook; nothing if not `show`.

    Args:
        show: whether there is a bar.
        minutes: the budget; None where trials are counted.
        runs: about how many runs there are in all.
        before: seconds that were spent before this process.
    """
    if not show:
        yield Watcher(lambda done, stage: None, minutes, before)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from ..training import bar_console

    columns = (TextColumn("tuning"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[stage]}"))
    with Progress(*columns, console=bar_console()) as progress:
        bar = progress.add_task("tuning", total=runs if minutes is None else 60 * minutes, stage="")
        yield Watcher(lambda done, stage: progress.update(bar, completed=done, stage=stage), minutes, before)
