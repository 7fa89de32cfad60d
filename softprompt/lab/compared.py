"""A run's best prompt beside what needs no training, on the same test rows; and one row before and after."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..backbones import AbstractBackbone
from ..builtin import BUILT_IN
from ..data import Examples
from ..errors import NotTrainable
from ..inference.answers import Answers, answer
from ..inference.predict import predict
from ..inference.report import Report
from ..inference.rows import examples_for
from ..inference.scoring import scoring_of
from ..prompts.batch import PromptBatch
from ..prompts.prompt import Provenance, SoftPrompt
from ..tasks import Task
from ..training import Result, Run, read_plan
from .instructions import instructed, instruction


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


def judged(run: Run, backbone: AbstractBackbone, rows: Any) -> TaskReport:
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
        unprompted=None if before is None else Report.from_answers(task, examples, before).metrics["score"],
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
    return Report.from_answers(task, *_answers(prompt, backbone, task, rows)).metrics["score"]


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
