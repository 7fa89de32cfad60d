"""The public function: rows, search, choice and report, one after the other, each kept on disk as it ends."""

import dataclasses
import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone, load_for
from ..data import load_rows
from ..errors import Interrupted, RunExists, quoted
from ..inference.rows import examples_for
from ..settings import ModelSpec, PromptSettings, TrainSettings
from ..store import held_alone, refuse_no_place, write_file
from ..tasks import Task
from ._budget import EVALUATIONS, MINUTES, MOST_STEPS, Budget, runs_of, timed_steps
from ._choice import CHALLENGERS, choosing_repeats, chosen
from ._final import CEILING_SEEDS, FROZEN, Final
from ._halving import rungs_of
from ._kept import field_bytes
from ._progress import progress_bar
from ._report import REPORT, Tuning, stored_report
from ._request import Request, refuse_another, refuse_another_model, request_from
from ._rows import Parts, on_files, parted, written
from ._search import Search
from ._space import Candidate, Space, asked_tasks
from ._trials import read_waves, refuse_no_optuna

# Rows that say how long rows are.
LOOKED_AT = 64


def tune(
    data: Any,
    model: "str | Path | ModelSpec | AbstractBackbone",
    *,
    minutes: float | None = None,
    trials: int | None = None,
    seeds: int = 5,
    seed: int = 0,
    method: Sequence[str] | str | None = None,
    templates: Sequence[str] = (),
    style: str | None = None,
    ceiling: bool = False,
    settings: TrainSettings | None = None,
    output: "Path | str | None" = None,
    data_root: "Path | str | None" = None,
    max_bad_rows: int = 0,
    progress: bool = False,
    **keywords: Any,
) -> Tuning:
    """Search for the settings with which prompts for a task and a frozen model score best.

        tuned = tune("reviews.csv", "smollm2", text_column="text", label_column="label", minutes=30)
        tuned.score, tuned.is_default, tuned.settings
        tuned.prompt().predict(["a gripping film"])

    Killed at any time, the same call with the same `output` goes on, and ends with what it would have ended with.

    Args:
        data: as the first argument of `train`: a task, its name, a file, or rows.
        model: as in `train`.
        minutes: about how long everything may take; without trials 30. Runs have as many steps as fit, at most 1000.
        trials: how many candidates are tried, in place of minutes.
        seeds: fresh seeds with which winner and default are trained for the report.
        seed: of the search.
        method: one or several that may be proposed, the first for the default; None is a choice of five.
        templates: further templates with {column} fields that may be proposed.
        style: as in `train`; None may try every style of the kind of model for a declared task.
        ceiling: also train LoRA, to see how much any prompt leaves.
        settings: what all candidates share, in place of its keywords.
        output: the folder of the search; None is tuned/<task>-<model>.
        data_root: folder with rows; None asks the hub.
        max_bad_rows: malformed rows to drop before it is an error.
        progress: show a bar on standard error.
        keywords: fields of TrainSettings and ModelSpec, and the keywords of `custom_task` for rows of your own, as in
            `train`. What is searched, such as `lr`, is refused.

    Raises:
        UnknownName: a keyword, task, method or column that does not exist.
        BadInput: a request that cannot work, too few rows or minutes, or no Optuna.
        RunExists: the folder holds another search.
        ModelMismatch: the search in the folder was begun with other weights of the model.
        Interrupted: after Ctrl-C; the same call goes on.
    """
    refuse_no_optuna()
    # Its name in earlier versions.
    method = keywords.pop("methods", method)
    if minutes is None and trials is None:
        minutes = MINUTES
    request = request_from(
        data, model, keywords, settings=settings, minutes=minutes, trials=trials, seeds=seeds, seed=seed,
        method=method, templates=templates, style=style, ceiling=ceiling,
        parameters=list(inspect.signature(tune).parameters),
    )  # fmt: skip
    folder = _default_output(request) if output is None else Path(output)
    refuse_no_place(folder, "the search")
    parts = parted(request.task, load_rows(request.task, data_root, max_bad_rows), request.settings.test_rows)
    with _alone(folder):
        refuse_another(folder, request, parts)
        if (folder / REPORT).is_file():
            return stored_report(folder)
        try:
            return _tuned(request, parts, folder, progress)
        except (Interrupted, KeyboardInterrupt) as error:
            done = sum(len(wave.trials) for wave in read_waves(folder))
            raise Interrupted(
                f"stopped with {done} trials stored in {folder}; the same command with --output={quoted(folder)} "
                "goes on"
            ) from error


def _default_output(request: Request) -> Path:
    model = Path(request.model_name).name or "model"
    return Path("tuned") / f"{request.task.name.replace('/', '-')}-{model}"


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Within, no other process searches in this folder; the lock ends with the process."""
    taken = RunExists(f"another process searches in {folder}; wait for it, or choose another --output")
    return held_alone(folder / ".lock", taken, to=f"search in {folder}", remedy="choose another --output")


def _tuned(request: Request, parts: Parts, folder: Path, progress: bool) -> Tuning:
    """Everything that is not on disk yet."""
    start, before = time.perf_counter(), sum((wave.seconds for wave in read_waves(folder)), 0.0)
    backbone = load_for(request.model, request.task.answer)
    refuse_another_model(folder, backbone)
    tasks = _tasks(request, backbone.kind)
    written(next(iter(tasks.values())), parts, folder)
    budget = _budget(request, parts, folder, tasks, backbone)
    settings = _settings(request, budget.steps)
    rungs = rungs_of(settings, budget.steps)
    race = max(1, min([*rungs, budget.steps]) // 2)
    length = _row_tokens(backbone, next(iter(tasks.values())), parts)
    space = Space.of(backbone, tasks, settings, request.methods, race, request.seed, row_tokens=length)
    runs = runs_of(request.trials or 0, budget.folds) + budget.last
    with progress_bar(progress, request.minutes, runs, before) as watcher:
        watcher.tell("search")
        search = Search(folder=folder, space=space, backbone=backbone, folds=budget.folds, rungs=rungs, watch=[watcher])
        trials = [trial for wave in search.run(budget.is_spent, budget.most) for trial in wave.trials]
        watcher.tell("choice")
        headline = next(iter(tasks.values())).scores
        winner, challenges = chosen(folder, space, trials, backbone, budget.folds, headline, [watcher])
        watcher.tell("report")
        final = Final(folder=folder, space=space, parts=parts, backbone=backbone, seeds=request.seeds, watch=[watcher])
        tuned = final.report(trials, winner, challenges, ceiling=request.ceiling)
    seconds = round(before + time.perf_counter() - start, 1)
    tuned = dataclasses.replace(tuned, cost={**tuned.cost, "seconds": seconds})
    write_file(folder / REPORT, field_bytes(tuned.to_json()), what="the report of the search")
    return tuned


def _tasks(request: Request, kind: str) -> dict[str, Task]:
    """The ways to put the task, by template."""
    tasks = asked_tasks(request.task, kind, request.style, request.wording, request.templates)
    if request.settings.max_length is None:
        return tasks
    return {name: dataclasses.replace(task, max_length=request.settings.max_length) for name, task in tasks.items()}


def _row_tokens(backbone: AbstractBackbone, task: Task, parts: Parts) -> float:
    """The mean number of tokens of a training row."""
    rows, _ = parts.folds[0]
    looked_at = rows.select(range(min(LOOKED_AT, len(rows))))
    return examples_for(backbone, task, looked_at, 0).lengths.float().mean().item()


def _budget(
    request: Request, parts: Parts, folder: Path, tasks: Mapping[str, Task], backbone: AbstractBackbone
) -> Budget:
    """How much may be done, in steps and runs."""
    folds, reported = len(parts.folds), 2 * request.seeds + (CEILING_SEEDS if request.ceiling else 0)
    last = (1 + CHALLENGERS) * len(choosing_repeats(request.seed, folds)) + reported
    steps, scoring = request.settings.steps or MOST_STEPS, 0.0
    if request.minutes is not None:
        task = on_files(next(iter(tasks.values())), folder, 0)
        default = Candidate(task=task, prompt=PromptSettings(method=request.methods[0]), settings=request.settings)
        choosing, given = len(parts.folds[0][1]), request.settings.steps
        # Each run answers the report rows at its end, and once more to be compared row by row.
        scored = len(parts.report) * (2 * reported + FROZEN)
        steps, scoring = timed_steps(
            request.minutes, given, folder, default, choosing, backbone, folds=folds, last=last, scored=scored
        )
    return Budget(minutes=request.minutes, trials=request.trials, folds=folds, last=last, steps=steps, scoring=scoring)


def _settings(request: Request, steps: int) -> TrainSettings:
    """The user's settings with so many steps, and five evaluations where the user did not say how many."""
    every = request.settings.eval_every if request.is_paced else max(1, steps // EVALUATIONS)
    return dataclasses.replace(request.settings, steps=steps, eval_every=every)
