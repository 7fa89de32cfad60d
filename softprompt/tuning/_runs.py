"""Runs of a search: candidates trained as fleets in folders of their own, which a killed search takes up again."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone
from ..documents import check_shape, in_file
from ..errors import (
    CallbackFailed,
    DamagedFile,
    Interrupted,
    OutOfMemory,
    RunExists,
    SoftPromptError,
    StorageFailure,
)
from ..inference.evaluate import evaluate
from ..interop.stored import load
from ..prompts.tuned import Stored
from ..run_layout import METRICS, is_run
from ..settings import PromptSettings
from ..training import Result, Run, read_record, resume, train, without_advice
from ._halving import REASON
from ._kept import kept
from ._measure import Answers
from ._rows import on_files
from ._space import Candidate

# What is no fault of a candidate.
_OURS = (CallbackFailed, DamagedFile, Interrupted, OutOfMemory, RunExists, StorageFailure)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One candidate that was trained on one fold.

    Args:
        folder: of its run.
        result: how it ended.
    """

    folder: Path
    result: Result

    @property
    def score(self) -> float | None:
        """The best score on the choosing rows; None where the prompt was dropped before any."""
        return self.result.metrics.get("validation", {}).get("score")

    @property
    def is_finished(self) -> bool:
        """Whether it was neither stopped at a rung nor dropped."""
        return not (self.result.is_dropped or self.result.stop_reason == REASON)

    def best_until(self, step: int) -> float | None:
        """The best score up to a step that was evaluated; None where it did not come so far."""
        rows = [
            row
            for row in read_record(self.folder / self.result.prompt / METRICS)
            if row.get("split") == "validation" and row["step"] <= step
        ]
        return max(row["score"] for row in rows) if rows and rows[-1]["step"] == step else None

    def stored(self) -> Stored:
        """The prompt, or the weights, that are best on the choosing rows."""
        return load(self.folder / self.result.prompt)


def fleet(
    folder: Path,
    first: Candidate,
    prompts: Sequence[PromptSettings],
    backbone: AbstractBackbone,
    callbacks: Sequence[Any] = (),
) -> list[Fit]:
    """Train prompts together, or go on where a killed process left them.

    Args:
        folder: of the run.
        first: whose task and settings they share.
        prompts: of each.
        backbone: frozen.
        callbacks: of the run.

    Raises:
        SoftPromptError: a candidate cannot be trained.
    """
    with without_advice():
        if is_run(folder):
            run = resume(folder, model=backbone, callbacks=callbacks)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            run = _started(folder, first, prompts, backbone, callbacks)
    return [Fit(folder=folder, result=result) for result in run.results]


def _started(
    folder: Path,
    first: Candidate,
    prompts: Sequence[PromptSettings],
    backbone: AbstractBackbone,
    callbacks: Sequence[Any],
) -> Run:
    return train(
        first.task, backbone, prompts=prompts, settings=first.settings, output=folder, style=first.style,
        callbacks=callbacks,
    )  # fmt: skip


def fits_or_faults(
    folder: Path, candidates: Sequence[Candidate], backbone: AbstractBackbone, callbacks: Sequence[Any]
) -> "list[Fit | str]":
    """Each candidate of a fleet trained, or what is wrong with it: one that cannot work does not stop the others.

    Args:
        folder: of the fleet.
        candidates: of one shape.
        backbone: frozen.
        callbacks: of the run.
    """
    try:
        return list(fleet(folder, candidates[0], [one.prompt for one in candidates], backbone, callbacks))
    except _OURS:
        raise
    except SoftPromptError as error:
        if len(candidates) == 1:
            return [error.message]
    alone = [
        fits_or_faults(folder.with_name(f"{folder.name}-{number}"), [one], backbone, callbacks)
        for number, one in enumerate(candidates)
    ]
    return [fit for fits in alone for fit in fits]


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One repetition of some settings.

    Args:
        fold: whose rows are used.
        seed: of everything random.
    """

    fold: int
    seed: int


def repeated(
    folder: Path,
    search: Path,
    candidate: Candidate,
    repeats: Sequence[Repeat],
    backbone: AbstractBackbone,
    *,
    test: str | None = None,
    callbacks: Sequence[Any] = (),
) -> list[Fit]:
    """Some settings trained once for each repeat, those of a fold in one fleet.

    Args:
        folder: where the runs are.
        search: the folder of the search, which has the rows.
        candidate: the settings.
        repeats: folds and seeds.
        backbone: frozen.
        test: the file of test rows; None is the glance.
        callbacks: of the runs.
    """
    fits: dict[Repeat, Fit] = {}
    for fold in dict.fromkeys(repeat.fold for repeat in repeats):
        members = [repeat for repeat in repeats if repeat.fold == fold]
        task = on_files(candidate.task, search, fold, test)
        with_files = Candidate(task=task, prompt=candidate.prompt, settings=candidate.settings)
        prompts = [candidate.seeded(repeat.seed) for repeat in members]
        fits |= zip(members, fleet(folder / f"fold-{fold}", with_files, prompts, backbone, callbacks), strict=True)
    return [fits[repeat] for repeat in repeats]


def answers_of(fit: Fit, split: str, backbone: AbstractBackbone) -> Answers:
    """What a trained prompt answers to the rows of a split; computed once.

    Args:
        fit: it has a score; a prompt that was dropped before its first evaluation answers nothing.
        split: "validation" or "test".
        backbone: frozen.
    """

    def compute() -> Mapping[str, Any]:
        report = evaluate(fit.stored(), model=backbone, split=split)
        return {"predictions": report.predictions, "gold": report.gold}

    path = fit.folder / fit.result.prompt / f"answers-{split}.json"
    values = kept(path, compute)
    with in_file(path):
        check_shape(Answers, values, predictions=Sequence[Any], gold=Sequence[Any])
    # JSON has no word for an answer that is no number.
    predictions = [math.nan if value is None else value for value in values["predictions"]]
    return Answers(predictions=predictions, gold=values["gold"])
