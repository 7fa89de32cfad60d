"""The end of a run: each best prompt scored and stored, and the results read again."""

import dataclasses
import json
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..errors import DamagedFile
from ..inference.evaluate import Report, majority_score
from ..metrics import ERRORS, headline_score, score
from ..prompts.trainable import stream_seed
from ..prompts.units import prompt_norm
from ..store import json_bytes, save_prompt, write_file
from ..tasks import Task
from ._advice import not_learning, wrong_scale
from ._loop import Loop
from ._member import TrainedLane
from ._plan import Plan, Result, read_plan
from ._records import read_record, recorded_steps
from ._restarts import losers_steps

log = logging.getLogger("softprompt")

# Enough to tell rows learnt by heart from rows not learnt, to 0.02; more would cost as much as the test rows.
TRAIN_SCORE_ROWS = 500


def last_reports(plan: Plan, loop: Loop) -> dict[str, dict[str, Report]]:
    """How each lane's best prompt scores in the end, by lane and split: of all lanes in shared passes."""
    lanes = [lane for lane in loop.lanes if lane.best is not None]
    prompts = [lane.best for lane in lanes if lane.best is not None]
    found = {"test": loop.scores(prompts, loop.material.test)}
    if plan.settings.train_score:
        rows = [own_rows(lane.rows, lane.settings.seeds.draw) for lane in lanes]
        found["train"] = loop.scores(prompts, loop.material.train, rows)
    return {lane.name: {split: found[split][number] for split in found} for number, lane in enumerate(lanes)}


def finish_lane(
    plan: Plan, loop: Loop, lane: TrainedLane, folder: Path, seconds: float, reports: Mapping[str, Mapping[str, Report]]
) -> Result:
    """Store the lane's best prompt with its scores, and write its result last."""
    lane.record.mark()
    metrics: dict[str, Any] = {}
    stored, head, norm = 0, 0, None
    if lane.best is not None:
        metrics = {"validation": lane.best_metrics}
        metrics |= {split: {**one.metrics, "invalid": one.invalid} for split, one in reports[lane.name].items()}
        provenance = dataclasses.replace(
            lane.provenance, metrics=metrics, training={**lane.provenance.training, "best_step": lane.best_step}
        )
        best = dataclasses.replace(lane.best, provenance=provenance)
        if not (folder / lane.name / "prompt").exists():
            save_prompt(best, folder / lane.name / "prompt")
        stored, head, norm = best.stored, best.head.count if best.head else 0, prompt_norm(best.vectors)
    warnings = [*not_learning(lane, plan.task, loop.material.validation.gold), *wrong_scale(lane)]
    if not lane.is_training and lane.status.startswith("dropped"):
        warnings.append(f"{lane.name}: {lane.status}; the other prompts went on; try a lower --lr")
    for line in warnings:
        log.warning(line)
    result = Result(
        run=str(folder),
        lane=lane.name,
        task=plan.task.name,
        method=lane.settings.method,
        seed=lane.settings.seeds.initialization,
        units=lane.provenance.training["units"],
        lr=lane.provenance.training["lr"],
        metrics=metrics,
        majority=constant_score(plan.task, loop.material.test.gold),
        best_step=lane.best_step,
        trainable=lane.provenance.training["trainable"],
        head=head,
        stored=stored,
        norm=norm,
        token_norms=None if norm is None else norm / lane.lane.words.token_norm,
        lane_steps=recorded_steps(lane.record.path) + losers_steps(folder / lane.name, lane.restarts),
        restarts=lane.restarts,
        seconds=seconds,
        status="finished" if lane.is_training else lane.status,
        warnings=tuple(warnings),
    )
    # Without the seconds: a resumed run leaves the same bytes as one that never stopped.
    plain = {name: value for name, value in result.to_json().items() if name not in ("seconds", "run")}
    write_file(folder / lane.name / "result.json", json_bytes(plain), what=f"the result of {lane.name}", replace=True)
    return result


def own_rows(rows: Sequence[int], seed: int) -> list[int]:
    """The training rows that a prompt is scored on when asked to: all of them, or 500 drawn at random."""
    if len(rows) <= TRAIN_SCORE_ROWS:
        return list(rows)
    return sorted(random.Random(stream_seed(seed, "train-score")).sample(list(rows), TRAIN_SCORE_ROWS))


def constant_score(task: Task, gold: Sequence[Any]) -> float | None:
    """The score of always answering the most frequent class of these rows, or their mean where an error is the score.

    None where that would be 0 or means nothing: a correlation, free text.
    """
    if task.answer == "number" and task.scores[0] in ERRORS:
        return headline_score(score(task.metrics, [fmean(gold)] * len(gold), gold), task.scores)
    return majority_score(task, gold) if task.answer == "label" else None


def read_result(folder: Path, lane: str) -> Result | None:
    path = folder / lane / "result.json"
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        return Result(**{**values, "warnings": tuple(values["warnings"])}, run=str(folder), seconds=seconds_of(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedFile(f"{path} cannot be read ({error}); delete it and --resume {folder}") from error


def read_results(run: "Path | str") -> list[Result]:
    """The results of a run's prompts that have ended, in the order of the run.

    Raises:
        BadInput: no run there.
        DamagedFile: a result cannot be read.
    """
    folder = Path(run)
    return [result for name in read_plan(folder).lane_names() if (result := read_result(folder, name))]


def seconds_of(folder: Path) -> float:
    """Wall time of the run over all its processes."""
    return round(sum((row["seconds"] for row in read_record(folder / "timing.jsonl")), 0.0), 3)
