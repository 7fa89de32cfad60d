"""The end of a search: the winner with fresh seeds, on rows that nothing was chosen by, beside what is no search."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone
from ..errors import SoftPromptError
from ..inference.frozen import baselines
from ..inference.kept_baselines import kept_baselines, way_to_answer
from ..metrics import known_score
from ..settings import PromptSettings
from ._choice import Challenge, fresh_seeds
from ._measure import Answers, lead_measure, score_measure
from ._report import Lead, Line, Tuning
from ._rows import Parts
from ._runs import Fit, Repeat, answers_of, repeated
from ._space import Candidate, Space
from ._trials import Trial

# LoRA is slow, and is to show a ceiling only.
CEILING_SEEDS = 2
# What answers the report rows without training: the bare template and the instruction.
FROZEN = 2

log = logging.getLogger("softprompt")


@dataclass(frozen=True, kw_only=True)
class Final:
    """What the report is made from.

    Args:
        folder: of the search.
        space: of its candidates.
        parts: the rows.
        backbone: frozen.
        seeds: how many fresh seeds.
        watch: callbacks of the runs.
    """

    folder: Path
    space: Space
    parts: Parts
    backbone: AbstractBackbone
    seeds: int
    watch: Sequence[Any] = ()

    def report(
        self, trials: Sequence[Trial], winner: Trial, challenges: Sequence[Challenge], *, ceiling: bool
    ) -> Tuning:
        """Train the winner and the default with fresh seeds, and compare them with what was not trained.

        Args:
            trials: of the search, the default first.
            winner: one of them.
            challenges: how it was chosen.
            ceiling: whether LoRA is trained, too.

        Raises:
            SoftPromptError: no seed of the winner has a score.
        """
        candidate, default = self.space.candidate(winner.params), self.space.candidate(trials[0].params)
        fits, answers = self._trained("winner", candidate)
        if not answers:
            raise SoftPromptError(
                f"every prompt of the winner was dropped before it had a score ({self.folder}); search anew in another "
                "--output, with more --seeds"
            )
        lines, lead, runs = self._lines("winner", answers), None, list(fits)
        if winner.number == 0:
            lines += [dataclasses.replace(line, name="default") for line in lines]
        else:
            others, theirs = self._trained("default", default)
            lines += self._lines("default", theirs)
            lead, runs = self._lead(answers, theirs), [*runs, *others]
        if ceiling:
            lora = dataclasses.replace(default, prompt=PromptSettings(method="lora"))
            others, theirs = self._trained("lora", lora, CEILING_SEEDS)
            lines += self._lines("lora", theirs)
            runs += others
        best = max(fits, key=lambda fit: known_score(fit.score))
        return Tuning(
            folder=self.folder,
            task=candidate.task.name,
            model=self.backbone.name,
            settings=candidate.to_json(),
            template=winner.params["template"],
            is_default=winner.number == 0,
            lines=(*lines, *self._not_trained(candidate)),
            lead=lead,
            challengers=[self._told(challenge) for challenge in challenges],
            best=best.folder / best.result.prompt,
            trials=dict(Counter(trial.state for trial in trials)),
            cost={"prompt_steps": _steps_of(trials, runs)},
            rows=self._row_counts(),
        )

    def _lines(self, name: str, answers: Mapping[int, Answers]) -> list[Line]:
        """The line of what was trained; none where no repeat has a score."""
        return [Line.of(name, score_measure(self._headline, list(answers.values())))] if answers else []

    def _lead(self, ours: Mapping[int, Answers], theirs: Mapping[int, Answers]) -> Lead | None:
        """The lead over the repeats that both sides have; None where there is none."""
        both = [number for number in ours if number in theirs]
        pairs = [ours[number] for number in both], [theirs[number] for number in both]
        return Lead.of(lead_measure(self._headline, *pairs)) if both else None

    def _row_counts(self) -> dict[str, int]:
        train, choosing = self.parts.folds[0]
        counts = {"train": len(train), "choosing": len(choosing), "report": len(self.parts.report)}
        return {**counts, "folds": len(self.parts.folds)}

    @property
    def _headline(self) -> Sequence[str]:
        return next(iter(self.space.tasks.values())).scores

    def _trained(
        self, name: str, candidate: Candidate, seeds: int | None = None
    ) -> tuple[list[Fit], dict[int, Answers]]:
        """Some settings with fresh seeds, on one fold after another, and their answers to the report rows.

        The answers are numbered by the repeat; of one that was dropped before it had a score there are none.
        """
        folds = len(self.parts.folds)
        chosen = fresh_seeds(self.space.seed, "report", self.seeds)[:seeds]
        repeats = [Repeat(fold=number % folds, seed=seed) for number, seed in enumerate(chosen)]
        where = self.folder / "report" / name
        fits = repeated(
            where, self.folder, candidate, repeats, self.backbone, test="report.jsonl", callbacks=self.watch
        )
        for fit in fits:
            if fit.score is None:
                log.warning("%s: %s was %s; the report is without it", fit.folder, fit.result.prompt, fit.result.status)
        scored = {number: fit for number, fit in enumerate(fits) if fit.score is not None}
        return fits, {number: answers_of(fit, "test", self.backbone) for number, fit in scored.items()}

    def _not_trained(self, candidate: Candidate) -> list[Line]:
        """The frozen model with the same instruction, and without, on the same rows; nothing where no labels answer."""
        task, settings = candidate.task, candidate.settings
        if task.answer != "label":
            return []
        train, choosing = self.parts.folds[0]
        validation = choosing if settings.calibrate else None
        calibrated = {} if validation is None else {"calibrated_on": len(validation)}
        lines = kept_baselines(
            self.folder / "frozen.json",
            {"task": task.to_json(), **way_to_answer(settings, task, self.backbone), **calibrated},
            lambda: baselines(
                self.backbone, task, self.parts.report, train, settings=settings, validation=validation, draws=0
            ),
        )
        ends = [(None, None) if line.interval is None else line.interval for line in lines]
        return [
            Line(name=line.name, score=line.score, low=low, high=high)
            for line, (low, high) in zip(lines, ends, strict=True)
        ]

    def _told(self, challenge: Challenge) -> dict[str, Any]:
        candidate = self.space.candidate(challenge.trial.params)
        lead = None if challenge.lead is None else dataclasses.asdict(Lead.of(challenge.lead))
        return {
            "trial": challenge.trial.number,
            "settings": candidate.to_json(),
            "template": challenge.trial.params["template"],
            "lead": lead,
            "is_convincing": challenge.is_convincing,
        }


def _steps_of(trials: Sequence[Trial], runs: Sequence[Fit]) -> int:
    """Optimiser steps of all prompts of the search and of the report."""
    return sum(trial.steps for trial in trials) + sum(fit.result.prompt_steps or 0 for fit in runs)
