"""A run as it is now, from its folder: also of a run of another process, and of one that was killed in a line."""

import contextlib
import functools
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..documents import line_places, line_values, whole_lines
from ..errors import BadInput
from ..legacy import renamed
from ..metrics import Judged, best_judged
from ..run_layout import CHECKPOINTS, METRICS, PEFT, PLAN, PROMPT, RESTARTS, RESULT, TIMING, WEIGHTS
from ..settings import DEFAULT_STEPS
from ..study import StoredRun, is_kept, load

# A run whose records have not changed for so many seconds is shown as stopped.
SILENT_SECONDS = 300.0
# Folders of a run that hold no other run.
INSIDE = (CHECKPOINTS, RESTARTS, PROMPT, WEIGHTS, PEFT)
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class PromptView:
    """A prompt of a run.

    Args:
        name: its folder, or the run's name in a study.
        steps: optimiser steps whose loss is known.
        losses: the loss at these steps.
        scored: step and validation score of each evaluation.
        best: the best validation score.
        best_step: where it was reached.
        test: the test score; None before the end.
        note: why it ended early, or was dropped, and which lines of its record are damaged.
    """

    name: str
    steps: Sequence[int] = ()
    losses: Sequence[int | float] = ()
    scored: Sequence[tuple[int, int | float]] = ()
    best: int | float | None = None
    best_step: int | None = None
    test: int | float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run.

    Args:
        name: its folder, relative to where it was looked for.
        task: name of the task.
        model: name of the frozen model.
        state: "in training", "finished" or "stopped".
        step: optimiser steps so far.
        steps: of the whole run; None where the rows decide.
        seconds_left: at the speed so far; None where it is not known, or nothing is left.
        changed: when something was last written, in seconds since 1970.
        prompts: its prompts.
    """

    name: str
    task: str
    model: str
    state: str
    step: int
    steps: int | None
    seconds_left: float | None
    changed: float
    prompts: tuple[PromptView, ...]

    @property
    def best(self) -> int | float | None:
        """The best validation score of its prompts."""
        return max((prompt.best for prompt in self.prompts if prompt.best is not None), default=None)


def look(folder: "Path | str", most: int | None = None) -> list[RunView]:
    """The runs in a folder, the newest first: a run, a store of a study, or any folder that holds such.

    Args:
        folder: where to look.
        most: so many runs at most; None is all.

    Raises:
        BadInput: no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadInput(f"{root} is no folder; give a run, the store of a study, or a folder of runs")
    places = sorted(_places(root), key=lambda place: -place[1])
    return [view for path, _ in places[:most] if (view := _view(root, path)) is not None]


def sparkline(values: Sequence[int | float], width: int = 24) -> str:
    """Values as bars of eight heights, at most `width` of them, each the mean of its share; a gap where none is finite.

    All values alike are bars of the lowest height.
    """
    count = min(width, len(values))
    shares = [values[len(values) * i // count : len(values) * (i + 1) // count] for i in range(count)]
    means = [sum(kept) / len(kept) if (kept := [v for v in share if math.isfinite(v)]) else None for share in shares]
    known = [mean for mean in means if mean is not None]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    heights = [None if mean is None else round((mean - low) / span * 7) if span else 0 for mean in means]
    return "".join(" " if height is None else BARS[height] for height in heights)


def _places(root: Path) -> Iterator[tuple[Path, float]]:
    """The run folders and the stored runs below a folder, each with the time of its last change."""
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in INSIDE and not name.startswith(".")]
        path = Path(folder)
        if PLAN in files:
            # Its runs are those of the store, which is seen only from outside its folder of fleets.
            if len(path.relative_to(root).parts) >= len(("fleets", "ID", "run")) and is_kept(path):
                continue
            yield path, _changed(path)
        elif path.name == "runs":
            for name in files:
                # A stored run may be deleted at this moment.
                if name.endswith(".json") and not name.startswith("."):
                    with contextlib.suppress(OSError):
                        yield path / name, (path / name).stat().st_mtime


def _changed(run: Path) -> float:
    times = [0.0]
    for path in (run / PLAN, run / TIMING, *run.glob(f"*/{METRICS}"), *run.glob(f"*/{RESULT}")):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _view(root: Path, path: Path) -> RunView | None:
    """What is at a place; None if it is gone or no run."""
    try:
        if path.is_dir():
            return _of_folder(path, str(path.relative_to(root)), _changed(path))
        return _of_stored(path, path.relative_to(root), path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _of_folder(run: Path, name: str, changed: float) -> RunView:
    plan = renamed(json.loads((run / PLAN).read_bytes()))
    records = sorted(run.glob(f"*/{METRICS}"))
    prompts = tuple(_prompt(record, record.stat().st_mtime_ns, _written(record)) for record in records)
    settings = plan["settings"]
    steps = settings.get("steps") or (None if settings.get("epochs") else DEFAULT_STEPS)
    step = max((prompt.steps[-1] for prompt in prompts if prompt.steps), default=0)
    is_done = len(prompts) >= len(plan["prompts"]) and all((path.parent / RESULT).exists() for path in records)
    state = "finished" if is_done else "in training" if time.time() - changed < SILENT_SECONDS else "stopped"
    left = _seconds_left(run, step, steps) if state == "in training" else None
    place = run.name if name == "." else name
    return RunView(
        name=place, task=plan["task"]["name"], model=str(plan["model"]), state=state, step=step, steps=steps,
        seconds_left=left, changed=changed, prompts=prompts,
    )  # fmt: skip


def _written(record: Path) -> int:
    """When the result beside a record was written; 0 where it is not yet."""
    try:
        return (record.parent / RESULT).stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=4096)
def _prompt(record: Path, changed: int, finished: int) -> PromptView:
    """A prompt from its record and result, read once after each change of one of them."""
    rows, damaged = _rows(record)
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    judged = [
        Judged(row["step"], row["score"], row.get("label_loss")) for row in rows if row.get("split") == "validation"
    ]
    best = best_judged(judged)
    dropped = [f"dropped at step {row['step']}: {row['dropped']}" for row in rows if "dropped" in row]
    result: Mapping[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        result = json.loads((record.parent / RESULT).read_bytes())
    status = result.get("status", "")
    ended = dropped[-1] if dropped else "" if status == "finished" else status
    return PromptView(
        name=record.parent.name,
        steps=tuple(step for step, _ in losses),
        losses=tuple(loss for _, loss in losses),
        scored=tuple((evaluation.step, evaluation.score) for evaluation in judged),
        best=None if best is None else best.score,
        best_step=None if best is None else best.step,
        test=(result.get("metrics") or {}).get("test", {}).get("score"),
        note="; ".join(part for part in (ended, damaged) if part),
    )


def _rows(record: Path) -> tuple[list[dict[str, Any]], str]:
    """The whole rows of a record, and which of its lines are damaged and left out; a torn last line is no fault."""
    lines = [None if line is None else line_values(line) for line in whole_lines(record.read_bytes())]
    rows = [row for row in lines if row is not None and isinstance(row.get("step"), int)]
    damaged = [number for number, row in enumerate(lines, 1) if row is None]
    return rows, f"its record is damaged in {line_places(damaged)}, left out here" if damaged else ""


@functools.lru_cache(maxsize=20_000)
def _of_stored(path: Path, name: Path, changed: int) -> RunView | None:
    stored: StoredRun | None = load(path.parents[1], path.stem)
    if stored is None:
        return None
    curve = stored.curve
    steps, losses = curve.get("step", ()), curve.get("loss", ())
    scored = zip(stored.validation.get("step", ()), stored.validation.get("score", ()), strict=True)
    spec = stored.spec
    label = f"{spec.prompt.method}-seed{spec.prompt.seeds.initialization}"
    prompt = PromptView(
        name=label if spec.prompt.lr is None else f"{label}-lr{spec.prompt.lr:g}",
        steps=tuple(int(step) for step in steps if step is not None),
        losses=tuple(math.nan if loss is None else float(loss) for loss in losses),
        scored=tuple((int(step), float(score)) for step, score in scored if step is not None and score is not None),
        best=stored.validation_score,
        best_step=stored.best_step,
        test=stored.score,
        note="" if stored.status == "finished" else stored.status,
    )
    last = prompt.steps[-1] if prompt.steps else 0
    return RunView(
        name=str(name.with_suffix("")), task=spec.declared.name, model=spec.model, state="finished", step=last,
        steps=spec.settings.steps, seconds_left=None, changed=changed / 1e9, prompts=(prompt,),
    )  # fmt: skip


def _seconds_left(run: Path, step: int, steps: int | None) -> float | None:
    """The steps that are left, at the mean speed of those that are recorded with their seconds."""
    rows, _ = _rows(run / TIMING) if (run / TIMING).exists() else ([], "")
    if not rows or steps is None:
        return None
    return max(0, steps - step) * sum(row["seconds"] for row in rows) / rows[-1]["step"]
