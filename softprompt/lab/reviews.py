"""The demonstration on a real language model: prompts that begin as an instruction, beside what was not trained.

The rows are those of `examples/reviews`: short reviews, positive or negative, written for this repository.

<output>/run/            a run of `train`
<output>/results.json    the comparison and all scores
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone, load_backbone, refuse_no_folder
from ..checks import require_numbers
from ..data import Rows, load_rows, split_rows
from ..errors import BadInput, Interrupted
from ..inference.asked import worded_for
from ..inference.predict import predict
from ..settings import PromptSettings, Seeds, TrainSettings
from ..store import json_bytes, write_file
from ..tasks import INSTRUCT, SPLITS, Task, custom_task, gold
from ..training import Comparison, Result, Run, refuse_used, train
from .compared import Seen, best_of, no_prompt

REVIEWS = Path(__file__).parents[2] / "examples" / "reviews"
# Of SST-2, whose rows are reviews as well: nothing here was written for these rows.
WORDING = INSTRUCT["glue/sst2"]
# Chosen on rows of SST-2, in root mean squares of the word embeddings.
RATE = 0.03
ROWS_PER_STEP = 8
EVALUATIONS = 2


@dataclass(frozen=True, kw_only=True)
class ReviewsDemo:
    """The settings of the demonstration on a real language model, checked before any work.

    Args:
        model: a packaged model such as "smollm2", a folder, a GGUF file or a hub id.
        seeds: prompts, of the seeds 0, 1 ...; they differ in the order of the training rows.
        steps: optimiser steps of each.
        output: a new folder for everything.
        device: "auto", "cpu", "cuda" ...
        rows: folder with train.csv, validation.csv and test.csv, each with the columns `sentence` and `label`.

    Raises:
        BadInput: no seed or step, or no rows.
    """

    model: str = "smollm2"
    seeds: int = 3
    steps: int = 20
    output: Path
    device: str = "auto"
    rows: Path = field(default_factory=lambda: REVIEWS)

    def __post_init__(self) -> None:
        """Refuse settings that would fail only after minutes."""
        require_numbers({"seeds": self.seeds, "steps": self.steps}, whole=True)
        if not (self.rows / "train.csv").is_file():
            raise BadInput(
                "the demonstration on a real model reads examples/reviews of a checkout, which is not installed with "
                "the package; clone the repository and install it with pip install -e ., or give --task"
            )

    @property
    def files(self) -> dict[str, str]:
        """The file of each split."""
        return {split: str(self.rows / f"{split}.csv") for split in SPLITS}

    @property
    def task(self) -> Task:
        """The reviews, put in the words that SST-2 is put in."""
        return custom_task(
            self.files,
            text_columns=["sentence"],
            label_column="label",
            template=WORDING.template,
            instruction=WORDING.instruction,
            name="reviews",
        )

    @property
    def prompts(self) -> list[PromptSettings]:
        """One prompt for each seed; each begins as the instruction."""
        return [
            PromptSettings(init="instruction", lr=RATE, units="rms", seeds=Seeds.all(seed))
            for seed in range(self.seeds)
        ]

    @property
    def settings(self) -> TrainSettings:
        """The training settings that all prompts share."""
        return TrainSettings(
            steps=self.steps,
            batch_size=ROWS_PER_STEP,
            eval_every=max(1, math.ceil(self.steps / EVALUATIONS)),
            loss="labels",
        )

    def show(self, *, progress: bool = False) -> "ReviewsReport":
        """Train, compare, and write the folder.

        Args:
            progress: show a bar on standard error.

        Raises:
            SoftPromptError: before anything is written, where the request cannot work.
            Interrupted: after Ctrl-C; `softprompt train --resume` goes on with the run.
        """
        refuse_used(self.output)
        refuse_no_folder(self.model)
        try:
            return self._show(progress)
        except KeyboardInterrupt as error:
            raise Interrupted(f"the demo was stopped; what was finished is in {self.output}") from error

    def _show(self, progress: bool) -> "ReviewsReport":
        started = time.perf_counter()
        backbone = load_backbone(self.model, device=self.device)
        folder = self.output / "run"
        run = train(
            self.task,
            backbone,
            prompts=self.prompts,
            settings=self.settings,
            output=folder,
            progress=progress,
            with_frozen=True,
        )
        report = _judged(run, backbone, self.task, started)
        write_file(self.output / "results.json", json_bytes(report.to_json()), what="the results of the demo")
        return report


@dataclass(frozen=True, kw_only=True)
class ReviewsReport:
    """What the demonstration found. All scores are on the same test rows.

    Args:
        task: as it was put.
        run: the fleet.
        comparison: what was not trained, and the prompts.
        best: the prompt with the best validation score.
        gained: test rows that it answers right and the instruction wrong.
        lost: test rows that it answers wrong and the instruction right.
        seen: one row of `gained` before and after training; None where there is no such row.
        seconds: wall time of loading, training and comparing.
    """

    task: Task
    run: Run
    comparison: Comparison
    best: Result
    gained: int
    lost: int
    seen: Seen | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, for results.json."""
        return {
            "task": self.task.name,
            "run": str(self.run.folder),
            "comparison": dataclasses.asdict(self.comparison),
            "best": self.best.prompt,
            "gained": self.gained,
            "lost": self.lost,
            "seen": None if self.seen is None else dataclasses.asdict(self.seen),
            "results": [result.to_json() for result in self.run.results],
        }


def _judged(run: Run, backbone: AbstractBackbone, task: Task, started: float) -> ReviewsReport:
    """The best prompt of a run beside the instruction, row by row."""
    comparison, best = run.comparison, best_of(run.results)
    assert comparison is not None
    rows = split_rows(task, load_rows(task, None)).test
    prompt = next(line for line in comparison.prompts if line.name == best.prompt)
    right = [gold(task, row) for row in rows]
    gained = only_right(prompt.predictions, comparison.best.predictions, right)
    lost = only_right(comparison.best.predictions, prompt.predictions, right)
    return ReviewsReport(
        task=task,
        run=run,
        comparison=comparison,
        best=best,
        gained=len(gained),
        lost=len(lost),
        seen=_seen(run, best, backbone, task, rows, gained[0]) if gained else None,
        seconds=time.perf_counter() - started,
    )


def only_right(ours: Sequence[Any], theirs: Sequence[Any], right: Sequence[Any]) -> list[int]:
    """The places of rows that we answer right and they do not."""
    rows = enumerate(zip(ours, theirs, right, strict=True))
    return [place for place, (our, their, answer) in rows if our == answer != their]


def _seen(run: Run, best: Result, backbone: AbstractBackbone, task: Task, rows: Rows, place: int) -> Seen:
    """One row, answered after the instruction and after the prompt."""
    row = {name: rows[place][name] for name in task.columns}
    question = worded_for(task, backbone.kind)
    return Seen(
        row=row,
        right=rows[place][task.target],
        before=predict(no_prompt(backbone), [row], task=question, model=backbone)[0],
        after=predict(run.prompt(best.prompt), [row], model=backbone)[0],
    )
