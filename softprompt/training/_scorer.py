"""How what was stored answers and scores on the rows of a run."""

import contextlib
from collections.abc import Sequence
from typing import final

from ..baselines import answering
from ..data import Examples
from ..inference.answers import Answers, answer_all
from ..inference.report import Report
from ..inference.scoring_rule import scoring_for
from ..memory import MemoryBudget
from ..prompts.batch import PromptBatch
from ..prompts.prompt import SoftPrompt
from ..prompts.tuned import Stored
from ._processes import Processes
from ._run_data import RunData


@final
class Scorer:
    """Scores prompts in shared passes, and weights one after another.

    Args:
        run_data: the run.
        processes: that share the rows.
    """

    def __init__(self, run_data: RunData, processes: Processes):
        self.run_data, self.processes = run_data, processes
        self.scoring = scoring_for(run_data.plan.settings, run_data.task, run_data.backbone)
        self.memory_budget = MemoryBudget.of(run_data.backbone)

    def scores(
        self, prompts: Sequence[Stored], examples: Examples, rows: Sequence[Sequence[int]] | None = None
    ) -> list[Report | None]:
        """Metrics of what was stored on tokenised rows; None where the model computes NaN, whose labels mean nothing.

        Args:
            prompts: any number.
            examples: the rows.
            rows: which of them each prompt answers; None is all.
        """
        examples_of = [examples] * len(prompts) if rows is None else [examples.select(chosen) for chosen in rows]
        answers = self.answers(prompts, examples, rows)
        return [
            None if given.has_nan else Report.from_answers(self.run_data.task, seen, given)
            for seen, given in zip(examples_of, answers, strict=True)
        ]

    def answers(
        self, prompts: Sequence[Stored], examples: Examples, rows: Sequence[Sequence[int]] | None = None
    ) -> list[Answers]:
        """Answers of what was stored to tokenised rows; as in `scores`."""
        seen = [range(len(examples))] * len(prompts) if rows is None else rows
        together = [number for number, stored in enumerate(prompts) if isinstance(stored, SoftPrompt)]
        alone = [[number] for number in range(len(prompts)) if number not in together]
        answers: dict[int, Answers] = {}
        for numbers in [together, *alone] if together else alone:
            with contextlib.ExitStack() as applied:
                before = [applied.enter_context(answering(prompts[n], self.run_data.backbone)) for n in numbers]
                answered = self._answered(before, examples, [seen[n] for n in numbers])
            answers |= dict(zip(numbers, answered, strict=True))
        return [answers[number] for number in range(len(prompts))]

    def _answered(
        self, prompts: Sequence[SoftPrompt], examples: Examples, rows: Sequence[Sequence[int]]
    ) -> list[Answers]:
        """Answers of prompts that share their passes."""
        backbone, settings = self.run_data.backbone, self.run_data.plan.settings
        prompt_batch = PromptBatch.of(*prompts, device=backbone.device)
        ours = [self.processes.of(rows_of_prompt) for rows_of_prompt in rows]
        answers = self.memory_budget.within(
            lambda: answer_all(
                backbone,
                prompt_batch,
                examples,
                self.run_data.task,
                ours,
                decode=settings.decode,
                scoring=self.scoring,
                max_new_tokens=settings.max_new_tokens,
                batch_size=2 * settings.batch_size * len(prompts),
                memory_budget=self.memory_budget,
            )
        )
        return self.processes.joined(answers)
