"""What a report is made of: trained prompts, and what they are compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..study import StoredRun
from ..study.stability import Untrained

if TYPE_CHECKING:
    from ..training import Comparison

State = Literal["finished", "in training", "not finished"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One trained prompt.

    Args:
        label: its name on the page.
        run: its results and curves; a prompt that is not finished has no test score.
        state: whether it was trained to its end.
        reached: the last optimiser step that is recorded.
        steps: optimiser steps that were planned; None where that is not known.
        folder: of the prompt in its run; None where only results are stored.
        notes: what a reader has to know of this prompt.
        data: SHA-256 of the tokenised rows; None where it is not recorded.
        comparison: the run's prompts beside the frozen model, on the same test rows; None where there is none.
        prompt: its name in the run, or in the store of its study.
        task_name: that of its task beside the others; empty where that is the task's own.
        words: what tells how the task is put from other ways to put it on the same rows; empty where there is one way.
    """

    label: str
    run: StoredRun
    state: State = "finished"
    reached: int = 0
    steps: int | None = None
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    data: str | None = None
    comparison: "Comparison | None" = None
    prompt: str = ""
    task_name: str = ""
    words: str = ""

    @property
    def task(self) -> str:
        """Name of the task, with what differs where other rows have the same name."""
        return self.task_name or self.run.spec.declared.name

    @property
    def key(self) -> tuple[str, str]:
        """Task and model: what is compared stands on the same rows of the same model."""
        return self.task, self.run.spec.model

    @property
    def scored_on(self) -> tuple[str, str, int | None]:
        """Task, model and bound of the test rows: scores are differences only between entries of the same."""
        return *self.key, self.run.spec.settings.test_rows


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Everything that was read for a report.

    Args:
        entries: the prompts.
        untrained: scores without training on all test rows, by what entries are scored on.
        stabilities: reports of `softprompt stability`, as they were written, by what their folder is called.
        landscapes: contents of `landscape.json` files, likewise.
        notes: what a reader has to know of the whole.
    """

    entries: Sequence[Entry] = ()
    untrained: Mapping[tuple[str, str, int | None], Sequence[Untrained]] = field(default_factory=dict)
    stabilities: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    landscapes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()
