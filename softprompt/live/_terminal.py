"""Runs in a terminal: one frame of what they are now, and frames one after another until they end."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput, visible
from ..spoken import duration
from ._views import PromptView, RunView, look, sparkline

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.text import Text

# So many runs are looked at, the newest.
MOST_LOOKED = 500
# So many runs are in a frame, those in training first.
MOST_RUNS = 6
# So many prompts of a run are in a frame, the best first.
MOST_PROMPTS = 8


def follow(folder: "Path | str", console: "Console", *, once: bool = False, every: float = 2.0) -> None:
    """Show the runs of a folder until none is in training, or one frame.

    Args:
        folder: as in `look`.
        console: where to.
        once: show one frame and return.
        every: seconds between two looks.

    Raises:
        BadInput: no such folder, or no run in it.
    """
    from rich.live import Live

    runs = look(folder, MOST_LOOKED)
    if not runs:
        raise BadInput(f"{folder} holds no run; give a run, the store of a study, or a folder of runs")
    if once:
        console.print(frame(runs, folder))
        return
    with Live(frame(runs, folder), console=console, auto_refresh=False) as live:
        while any(run.state == "in training" for run in runs):
            time.sleep(every)
            runs = look(folder, MOST_LOOKED)
            live.update(frame(runs, folder), refresh=True)


def frame(runs: Sequence[RunView], folder: "Path | str") -> "Group":
    """What the runs of a folder are now: counts, the best so far, and the curves of some of them."""
    from rich.console import Group

    listed = sorted(runs, key=lambda run: run.state != "in training")[:MOST_RUNS]
    parts: list[RenderableType] = []
    if len(runs) > 1:
        states = [run.state for run in runs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        which = "the newest " if len(runs) == MOST_LOOKED else ""
        parts.append(_text(f"{folder}: {which}{len(runs)} runs, {counts}", style="bold"))
        parts.append(_text(_best(runs)))
    for run in listed:
        notes = [_text(f"{prompt.name}: {prompt.note}", style="red") for prompt in run.prompts if prompt.note]
        parts += [_text(""), _head(run), _table(run), *notes]
    if len(runs) > len(listed):
        parts.append(
            _text(f"\n{len(runs) - len(listed)} more runs; `softprompt board {folder}` shows all", style="dim")
        )
    return Group(*parts)


def _text(words: str, style: str = "") -> "Text":
    """Words that may hold names of a file, which rich would read as markup and a terminal obey."""
    from rich.text import Text

    return Text(visible(words, kept="\n"), style=style)


def _best(runs: Sequence[RunView]) -> str:
    scored = [(prompt.best, run, prompt) for run in runs for prompt in run.prompts if prompt.best is not None]
    if not scored:
        return "no validation score yet"
    score, run, prompt = max(scored, key=lambda each: each[0])
    test = "" if prompt.test is None else f", test {prompt.test:.3f}"
    return f"best so far: {score:.3f} on validation{test}: {prompt.name} on {run.task} ({run.name})"


def _head(run: RunView) -> "RenderableType":
    steps = f"step {run.step}" + (f" of {run.steps}" if run.steps else "")
    left = "" if run.seconds_left is None else f", about {duration(run.seconds_left)} left"
    if run.state == "stopped":
        left = f", silent for {duration(time.time() - run.changed)}"
    head = _text(run.name, style="bold")
    head.append(_text(f"  {run.task} on {run.model}", style="not bold"))
    return head.append(_text(f"\n{run.state}, {steps}{left}", style="not bold dim"))


def _table(run: RunView) -> "RenderableType":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("prompt", "loss", "", "validation", "", "best", "test"):
        table.add_column(name, no_wrap=name != "prompt")
    ranked = sorted(run.prompts, key=lambda prompt: -(prompt.best if prompt.best is not None else -1e9))
    for prompt in ranked[:MOST_PROMPTS]:
        table.add_row(*map(_text, _cells(prompt)))
    if len(ranked) > MOST_PROMPTS:
        table.add_row(_text(f"{len(ranked) - MOST_PROMPTS} more prompts", style="dim"))
    return table


def _cells(prompt: PromptView) -> tuple[str, ...]:
    scores = [score for _, score in prompt.scored]
    best = "" if prompt.best is None else f"{prompt.best:.3f} @ {prompt.best_step}"
    return (
        prompt.name,
        sparkline(prompt.losses),
        f"{prompt.losses[-1]:.3f}" if prompt.losses else "",
        sparkline(scores, 12),
        f"{scores[-1]:.3f}" if scores else "",
        best,
        "" if prompt.test is None else f"{prompt.test:.3f}",
    )
