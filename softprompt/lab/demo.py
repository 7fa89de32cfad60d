"""The demonstration: a few methods and seeds on two tasks, in minutes on a CPU, with all results in one folder.

<output>/<task>/                       a run of `train`, all methods and seeds in one fleet
<output>/figures/<task>-norms.json     mean norms over steps; .png the same drawn
<output>/figures/<task>-cosines.json   cosines between a prompt's vectors before and after training; .png
<output>/peft/                         the first task's best prompt for stock PEFT
<output>/results.json                  all scores
<output>/row.jsonl                     one row of the first task, to be answered by `softprompt predict --file`
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backbones import load_backbone, refuse_no_folder
from ..builtin import BUILT_IN
from ..checks import listed, require_different, require_numbers
from ..data import load_rows, split_rows
from ..errors import BadInput, Interrupted
from ..interop.peft import export_peft
from ..prompts.methods import Method
from ..settings import PromptSettings, Seeds, TrainSettings
from ..store import json_bytes, write_file
from ..tasks import Task, with_difficulty
from ..tasks import task as find_task
from ..training import refuse_used, train
from .compared import TaskReport, judged
from .figures import draw

DEMO_TASKS = ("lab/entailment", "lab/purchase")
DEMO_METHODS = ("prompt-tuning", "ept-star", "residual", "scaled")
# Fewer rows than the tasks have, so that evaluation does not take longer than training.
VALIDATION_ROWS, TEST_ROWS = 100, 300
EVALUATIONS = 3
DEMO_STEPS = 150


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The settings of a demonstration, checked before any work.

    Args:
        tasks: names in TASKS; each is one fleet.
        methods: names in METHODS.
        seeds: prompts of each method, of the seeds 0, 1 ...
        steps: optimiser steps of each.
        model: a built-in backbone, a folder or a hub id.
        output: a new folder for everything.
        data_root: folder with rows, for tasks that are not of the lab; None asks the hub.
        device: "auto", "cpu", "cuda" ...

    Raises:
        UnknownName: a task or method that does not exist.
        BadInput: no task, method, seed or step; a built-in backbone for a task that is not of the lab.
    """

    tasks: Sequence[str] = DEMO_TASKS
    methods: Sequence[str] = DEMO_METHODS
    seeds: int = 3
    steps: int = DEMO_STEPS
    model: str = "lab-t5"
    output: Path
    data_root: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse settings that would fail only after minutes."""
        for name in ("tasks", "methods"):
            object.__setattr__(self, name, tuple(listed(name, getattr(self, name))))
            require_different(f"--{name[:-1]}", getattr(self, name))
        require_numbers({"seeds": self.seeds, "steps": self.steps}, whole=True)
        if not (self.tasks and self.methods):
            raise BadInput("the demo needs at least one task and one method")
        for task in self.declared:
            if self.model in BUILT_IN and not task.source.world:
                raise BadInput(
                    f"{self.model!r} knows the words of the lab only, not those of {task.name!r}; give --model with a "
                    "folder or a hub id, or a task that begins with lab/"
                )
        for prompt in self.prompts:
            if Method.of(prompt).weights:
                raise BadInput(f"the demo shows prompts, and {prompt.method!r} trains weights; give it to `train`")
        _ = self.settings

    @property
    def declared(self) -> list[Task]:
        """The tasks; those of the lab have few rows to score."""
        tasks = map(find_task, dict.fromkeys(self.tasks))
        return [with_difficulty(t, validation=VALIDATION_ROWS, test=TEST_ROWS) if t.source.world else t for t in tasks]

    @property
    def prompts(self) -> list[PromptSettings]:
        """One prompt for each method and seed."""
        return [
            PromptSettings(method=method, seeds=Seeds.all(seed))
            for method in dict.fromkeys(self.methods)
            for seed in range(self.seeds)
        ]

    @property
    def settings(self) -> TrainSettings:
        """The training settings that all prompts share."""
        return TrainSettings(
            steps=self.steps, eval_every=max(1, math.ceil(self.steps / EVALUATIONS)), eval_rows=VALIDATION_ROWS
        )

    def show(self, tell: Callable[[TaskReport], None] = lambda report: None, *, progress: bool = False) -> Path:
        """Train everything, write the folder, and return the exported prompt's.

        Args:
            tell: sees each task's report as soon as it is there.
            progress: show a bar on standard error.

        Raises:
            SoftPromptError: before anything is written, where the request cannot work.
            Interrupted: after Ctrl-C; what is finished stays.
        """
        refuse_used(self.output)
        refuse_no_folder(self.model)
        try:
            return self._show(tell, progress)
        except KeyboardInterrupt as error:
            raise Interrupted(f"the demo was stopped; what was finished is in {self.output}") from error

    def _show(self, tell: Callable[[TaskReport], None], progress: bool) -> Path:
        # All rows are read first, so that a missing file is reported before training.
        tests = [split_rows(task, load_rows(task, self.data_root)).test for task in self.declared]
        backbone = load_backbone(self.model, device=self.device)
        reports = []
        for task, rows in zip(self.declared, tests, strict=True):
            folder = self.output / slug(task.name)
            run = train(
                task,
                backbone,
                prompts=self.prompts,
                settings=self.settings,
                output=folder,
                data_root=self.data_root,
                progress=progress,
            )
            reports.append(judged(run, backbone, rows))
            draw(reports[-1], backbone, self.prompts, self.output / "figures", slug(task.name))
            tell(reports[-1])
        values = json_bytes([report.to_json() for report in reports])
        write_file(self.output / "results.json", values, what="the results of the demo")
        row = json.dumps(reports[0].seen.row, ensure_ascii=False)
        write_file(self.output / "row.jsonl", f"{row}\n".encode(), what="a row to answer")
        return export_peft(reports[0].run.prompt(reports[0].best.prompt), self.output / "peft", model=backbone.model)


def slug(name: str) -> str:
    """The name of a task's folder."""
    return name.removeprefix("lab/").replace("/", "-")
