"""The demonstration: a few methods and seeds on two tasks, in minutes on a CPU, with all results in one folder.

<output>/<task>/                       a run of `train`, all methods and seeds in one fleet
<output>/figures/<task>-norms.json     mean norms over steps; .png the same drawn
<output>/figures/<task>-cosines.json   cosines between a prompt's vectors before and after training; .png
<output>/peft/                         the first task's best prompt for stock PEFT
<output>/results.json                  all scores
<output>/row.jsonl                     one row of the first task, to be answered by `softprompt predict --file`
"""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..analysis import cosines, distinct, mean_cosine, norm_curve
from ..backbones import AbstractBackbone, load_backbone, refuse_no_folder
from ..builtin import BUILT_IN
from ..checks import listed, require_different, require_numbers
from ..data import Examples, load_rows, split_rows
from ..errors import BadInput, NotTrainable
from ..inference.answers import Answers, answer
from ..inference.evaluate import examples_for, report
from ..inference.predict import predict
from ..inference.scoring import scoring_of
from ..interop.peft import export_peft
from ..prompts.batch import PromptBatch
from ..prompts.initializers import uniform
from ..prompts.methods import METHODS, Method
from ..prompts.prompt import Provenance, SoftPrompt
from ..prompts.trainable import TrainablePrompt
from ..prompts.units import BAND, WordScale
from ..settings import PromptSettings, Seeds, TrainSettings
from ..store import json_bytes, write_file
from ..tasks import Task, with_difficulty
from ..tasks import task as find_task
from ..training import Interrupted, Result, Run, read_plan, refuse_used, train
from .instructions import instructed, instruction

log = logging.getLogger("softprompt")

DEMO_TASKS = ("lab/entailment", "lab/purchase")
DEMO_METHODS = ("prompt-tuning", "ept-star", "residual", "scaled")
# Fewer rows than the tasks have, so that evaluation does not take longer than training.
VALIDATION_ROWS, TEST_ROWS = 100, 300
EVALUATIONS = 3


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One test row before and after training.

    Args:
        row: its columns.
        right: the answer that counts as right.
        before: what the frozen model answers without a prompt, as `predict` says it; None if it has no way to answer.
        after: what it answers with the best prompt.
    """

    row: Mapping[str, Any]
    right: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """The results on one task. All scores are on the same test rows.

    Args:
        task: as it was put.
        run: the fleet.
        best: the prompt with the best validation score.
        rows: test rows.
        majority: score of always answering the most frequent class; None where there are no classes.
        unprompted: score of the frozen model on the bare text; None if it has no way to answer.
        instruction: the words that pretraining taught for this task, if it did.
        instructed: score of the frozen model with them before the text.
        seen: one prediction before and after.
    """

    task: Task
    run: Run
    best: Result
    rows: int
    majority: float | None
    unprompted: float | None
    instruction: str | None
    instructed: float | None
    seen: Seen

    def to_json(self) -> dict[str, Any]:
        """Plain values, for results.json."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        results = [result.to_json() for result in self.run.results]
        plain = {"task": self.task.name, "best": self.best.prompt, "seen": dataclasses.asdict(self.seen)}
        return {**values, **plain, "run": str(self.run.folder), "results": results}


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
    steps: int = 150
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
            Method.of(prompt)
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
            reports.append(_judged(run, backbone, rows))
            _draw(reports[-1], backbone, self.prompts, self.output / "figures")
            tell(reports[-1])
        values = json_bytes([report.to_json() for report in reports])
        write_file(self.output / "results.json", values, what="the results of the demo")
        row = json.dumps(reports[0].seen.row, ensure_ascii=False)
        write_file(self.output / "row.jsonl", f"{row}\n".encode(), what="a row to answer")
        return export_peft(reports[0].run.prompt(reports[0].best.prompt), self.output / "peft", model=backbone.model)


def slug(name: str) -> str:
    """The name of a task's folder."""
    return name.removeprefix("lab/").replace("/", "-")


def best_of(results: Sequence[Result]) -> Result:
    """The prompt with the best validation score, or the first of equals. Test rows are not used for this choice.

    Raises:
        NotTrainable: all were dropped.
    """
    scored = [result for result in results if "validation" in result.metrics]
    if not scored:
        raise NotTrainable("every prompt was dropped before it could be scored; the warnings above say why")
    return max(scored, key=lambda result: result.metrics["validation"]["score"])


def no_prompt(backbone: AbstractBackbone) -> SoftPrompt:
    """The frozen model alone, as a prompt of length 0."""
    provenance = Provenance("none", backbone.identity(), answers=backbone.answers)
    return SoftPrompt(torch.empty(0, backbone.embedding_size), provenance)


def _judged(run: Run, backbone: AbstractBackbone, rows: Any) -> TaskReport:
    """Compare the run's prompts with untrained references: the majority class, the bare text, the instruction."""
    task, best, bare = read_plan(run.folder).task, best_of(run.results), no_prompt(backbone)
    prompt = run.prompt(best.prompt)
    # A linear head is trained beside the prompt, so without training there are no answers to compare with.
    has_answers = backbone.answers != "linear-head"
    with_instruction = instructed(task) if has_answers and backbone.name in BUILT_IN else None
    examples, after = _answers(prompt, backbone, task, rows)
    before = _answers(bare, backbone, task, rows)[1] if has_answers else None
    place = turned(examples, before, after)
    row = {name: value for name, value in rows[place].items() if name in (*task.columns, *task.extra_columns)}
    return TaskReport(
        task=task,
        run=run,
        best=best,
        rows=len(examples),
        majority=best.majority,
        unprompted=None if before is None else report(task, examples, before).metrics["score"],
        instruction=None if with_instruction is None else instruction(task),
        instructed=None if with_instruction is None else _score(bare, backbone, with_instruction, rows),
        seen=Seen(
            row=row,
            right=_right(task, examples.gold[place]),
            before=predict(bare, [row], task=task, model=backbone)[0] if has_answers else None,
            after=predict(prompt, [row], task=task, model=backbone)[0],
        ),
    )


def _answers(prompt: SoftPrompt, backbone: AbstractBackbone, task: Task, rows: Any) -> tuple[Examples, Answers]:
    examples = examples_for(backbone, task, rows, prompt.length)
    prompt_batch, scoring = PromptBatch.of(prompt, device=backbone.device), scoring_of(prompt)
    return examples, answer(backbone, prompt_batch, examples, task, scoring=scoring, batch_size=100)


def _score(prompt: SoftPrompt, backbone: AbstractBackbone, task: Task, rows: Any) -> float:
    return report(task, *_answers(prompt, backbone, task, rows)).metrics["score"]


def turned(examples: Examples, before: Answers | None, after: Answers) -> int:
    """The first row that only training put right; otherwise the first right row, or the first row."""
    right = [_is_right(value, gold) for value, gold in zip(after.values, examples.gold, strict=True)]
    wrong = [True] * len(right)
    if before is not None:
        wrong = [not _is_right(value, gold) for value, gold in zip(before.values, examples.gold, strict=True)]
    both = [a and b for a, b in zip(right, wrong, strict=True)]
    return next((place for candidates in (both, right) for place, is_so in enumerate(candidates) if is_so), 0)


def _is_right(value: Any, gold: Any) -> bool:
    return value in gold if isinstance(gold, list) else value == gold


def _right(task: Task, gold: Any) -> str:
    return task.labels[gold] if task.answer == "label" else gold[0] if isinstance(gold, list) else f"{gold:g}"


def _draw(report: TaskReport, backbone: AbstractBackbone, prompts: Sequence[PromptSettings], folder: Path) -> None:
    """The numbers of the figures, and the figures where there is a library to draw them."""
    words = WordScale.of(backbone.word_vectors)
    curves: dict[str, list[dict[str, Any]]] = {}
    pairs: dict[str, dict[str, Any]] = {}
    for prompt, result in zip(prompts, report.run.results, strict=True):
        if METHODS[prompt.method].m == 0 or not result.metrics:
            continue
        end = report.run.prompt(result.prompt).vectors
        curves.setdefault(prompt.method, []).append(_curve(report.run.folder / result.prompt, result.seed))
        if len(end) > 1 and prompt.method not in pairs:
            start = TrainablePrompt.build(prompt, uniform(), backbone.word_vectors, None, words).folded().cpu()
            pairs[prompt.method] = {"seed": result.seed, "step 0": _angles(start), "trained": _angles(end)}
    name = slug(report.task.name)
    _write(folder / f"{name}-norms", {"token_norm": words.token_norm, "band": BAND, "curves": curves})
    _write(folder / f"{name}-cosines", pairs)
    try:
        from ..analysis import plots
    except ModuleNotFoundError as error:
        log.warning("no figures are drawn, only their numbers written: %s; pip install matplotlib", error)
        return
    lines = {method: [(c["steps"], c["token_norms"]) for c in seeds] for method, seeds in curves.items()}
    figures = {f"{name}-norms.png": plots.norm_figure(lines, band=BAND, title=report.task.name)}
    if pairs:
        sides = {m: (pair["step 0"]["cosines"], pair["trained"]["cosines"]) for m, pair in pairs.items()}
        figures[f"{name}-cosines.png"] = plots.cosine_figure(sides, title=report.task.name)
    for file, figure in figures.items():
        write_file(folder / file, plots.image(figure, file), what="a figure")


def _curve(prompt: Path, seed: int) -> dict[str, Any]:
    """The mean norms that training recorded."""
    curve = norm_curve(prompt)
    return {"seed": seed, "steps": curve.steps, "raw": curve.raw, "token_norms": curve.token_norms}


def _angles(vectors: torch.Tensor) -> dict[str, Any]:
    return {"mean": mean_cosine(vectors), "cosines": cosines(distinct(vectors)).tolist()}


def _write(place: Path, values: Any) -> None:
    write_file(place.with_name(f"{place.name}.json"), json_bytes(values), what="the numbers of a figure")
