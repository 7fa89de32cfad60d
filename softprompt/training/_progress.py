"""What a run shows while it works: a bar on standard error, a tracker, or nothing."""

import contextlib
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, pick

if TYPE_CHECKING:
    from rich.console import Console

    from ._loop import Loop

Watch = Callable[["Loop", dict[str, float]], None]

log = logging.getLogger("softprompt")


def bar_console() -> "Console":
    """Where a bar is shown: standard error, or the cell of a notebook.

    In a notebook rich draws a bar with ipywidgets. Without it, rich would show nothing, so the bar's end is printed.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter and find_spec("ipywidgets") is None:
        log.warning("a bar that moves in a notebook needs ipywidgets: pip install ipywidgets; only its end is shown")
        return Console(stderr=True, force_jupyter=False)
    return console


@contextlib.contextmanager
def bar(show: bool) -> Iterator[Watch]:
    """A rich progress bar with the mean loss over prompts and each prompt's best score; nothing if not `show`."""
    if not show:
        yield lambda loop, losses: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[state]}"), console=bar_console()) as progress:
        task_id = progress.add_task("training", total=None, state="")

        def watch(loop: "Loop", losses: dict[str, float]) -> None:
            best = [member.best_score for member in loop.members if member.best is not None]
            scores = f"  best {min(best):.3f} .. {max(best):.3f}" if best else ""
            state = f"loss {sum(losses.values()) / len(losses):.3f}{scores}"
            progress.update(task_id, completed=loop.step, total=loop.steps, state=state)

        yield watch


def refuse_unknown_trackers(names: str | None) -> None:
    """Refuse a tracker before anything is written.

    Args:
        names: one, or several joined by commas.

    Raises:
        UnknownName: Accelerate does not know it.
        BadInput: it is not installed.
    """
    for name in tracker_names(names):
        _refuse_unknown(name)


def tracker_names(names: str | None) -> list[str]:
    """The names of trackers in a text that joins them by commas."""
    return [name.strip() for name in names.split(",")] if names else []


def _refuse_unknown(name: str) -> None:
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    pick("tracker", name, dict.fromkeys(kind.value for kind in LoggerType if kind != LoggerType.ALL))
    if name not in {kind.value for kind in get_available_trackers()}:
        raise BadInput(f"tracker {name!r} is not installed; pip install {name}")


@contextlib.contextmanager
def tracker(names: str | None, folder: Path, config: Mapping[str, Any]) -> Iterator[Watch]:
    """The losses of each step and the best validation scores so far, sent to the trackers that Accelerate offers."""
    if not names:
        yield lambda loop, losses: None
        return
    from accelerate import Accelerator

    # A list of a wider type, as Accelerate declares it.
    wanted: list[Any] = list(tracker_names(names))
    ours = _AccelerateState()
    with ours.in_place():
        accelerator = Accelerator(log_with=wanted, project_dir=str(folder), cpu=True)
        # Trackers hold flat plain values: a nested plan is one JSON text.
        accelerator.init_trackers("softprompt", config={"plan": json.dumps(config)})

    def watch(loop: "Loop", losses: dict[str, float]) -> None:
        values = {f"{member}/loss": loss for member, loss in losses.items()}
        values |= {f"{member.name}/best_score": member.best_score for member in loop.members if member.best is not None}
        with ours.in_place():
            accelerator.log(values, step=loop.step)

    try:
        yield watch
    finally:
        # Also where the run was interrupted: what a tracker has not sent yet would be lost.
        with ours.in_place():
            accelerator.end_training()


class _AccelerateState:
    """What Accelerate keeps for the whole process, of our trackers: it fixes the device of every Accelerator."""

    def __init__(self):
        from accelerate.state import AcceleratorState, GradientState, PartialState

        # All instances share these dictionaries, so that their contents are exchanged, not they.
        self.shared: list[dict[str, Any]] = [
            kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)
        ]
        self.kept: list[dict[str, Any]] = [{} for _ in self.shared]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the `with` block, Accelerate has our state; afterwards that of the user's program again."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for number, shared in enumerate(self.shared):
            theirs = dict(shared)
            shared.clear()
            shared.update(self.kept[number])
            self.kept[number] = theirs


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt as Ctrl-C does; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C and SIGTERM are remembered instead of raised, so that the step ends and a checkpoint is saved.

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread, where signals cannot be caught,
    nothing changes.
    """
    received: list[int] = []

    def remember(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
