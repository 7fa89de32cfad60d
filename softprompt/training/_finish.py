"""The end of a run: each best prompt scored and stored, and its result written last."""

import dataclasses
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..backbones import AbstractBackbone
from ..baselines import WRITTEN_FOR_PEFT, has_peft, save_peft
from ..documents import sealed_bytes
from ..inference.report import majority_score
from ..metrics import ERRORS, headline_score, score
from ..prompts.prompt import SoftPrompt
from ..prompts.seeds import stream_seed
from ..prompts.tuned import Stored, TunedWeights
from ..prompts.units import prompt_norm
from ..run_layout import PEFT, PROMPT, RESULT, WEIGHTS
from ..status import FINISHED, is_dropped
from ..store import save_prompt, save_tuned, write_file
from ..tasks import Task
from ._advice import ADVICE, not_learning, worse_calibrated, wrong_scale
from ._damage import files_of
from ._last import Last
from ._member import FleetMember
from ._records import read_record, recorded_steps
from ._restarts import losers_steps
from ._result import FORMAT, Result
from ._run_data import RunData
from ._scorer import Scorer
from ._spikes import spikes_and_underflow

log = logging.getLogger(ADVICE)

# Enough to tell rows learnt by heart from rows not learnt, to 0.02; more would cost as much as the test rows.
TRAIN_SCORE_ROWS = 500


def last_reports(members: Sequence[FleetMember], scorer: Scorer) -> dict[str, Last]:
    """The final scores of the best version of each prompt that has one, computed in shared passes."""
    members, run_data = [member for member in members if member.best is not None], scorer.run_data
    prompts, settings = [member.best for member in members if member.best is not None], run_data.plan.settings
    splits = {"test": [(run_data.test, answers) for answers in scorer.answers(prompts, run_data.test)]}
    if settings.train_score:
        rows = [own_rows(member.rows, member.settings.seeds.draw) for member in members]
        answers = scorer.answers(prompts, run_data.train, rows)
        splits["train"] = [(run_data.train.select(seen), given) for seen, given in zip(rows, answers, strict=True)]
    validation = scorer.answers(prompts, run_data.validation) if settings.calibrate else []
    last: dict[str, Last] = {}
    for number, member in enumerate(members):
        of_member = {split: pairs[number] for split, pairs in splits.items()}
        if lost := [split for split, (_, answers) in of_member.items() if answers.has_nan]:
            # Its prompt is stored all the same, with the scores that it has.
            member.drop(member.best_step, f"the model computes NaN with it on {' and '.join(lost)} rows")
        usable = {split: pair for split, pair in of_member.items() if split not in lost}
        last[member.name] = Last.of(
            run_data.task, usable, (run_data.validation, validation[number]) if validation else None
        )
    return last


def finish_member(
    member: FleetMember, scorer: Scorer, folder: Path, seconds: float, reports: Mapping[str, Last]
) -> Result:
    """Store the prompt's best prompt with its scores, and write its result last."""
    member.record.mark()
    place, last = folder / member.name, reports.get(member.name)
    best = None if last is None else _stored(member, scorer, last, place)
    result = _result(member, scorer.run_data, folder, seconds, last, best)
    # Without the seconds: a resumed run leaves the same bytes as one that never stopped.
    plain = {name: value for name, value in result.to_json().items() if name not in ("seconds", "run")}
    plain |= {"format": FORMAT, "files": files_of(place)}
    write_file(place / RESULT, sealed_bytes(plain), what=f"the result of {member.name}", replace=True)
    return result


def _metrics(member: FleetMember, last: Last) -> dict[str, Any]:
    """The scores of the best version by split, with the number of answers that were none."""
    ended = {split: {**scores.metrics, "invalid": scores.invalid} for split, scores in last.reports.items()}
    return {"validation": member.best_metrics, **ended}


def _stored(member: FleetMember, scorer: Scorer, last: Last, place: Path) -> Stored:
    """The best version of a member, which is in its folder from now on."""
    assert member.best is not None
    provenance = dataclasses.replace(
        member.provenance,
        metrics=_metrics(member, last),
        training={**member.provenance.training, "best_step": member.best_step},
        scoring=dataclasses.replace(scorer.scoring, calibration=last.calibration).to_json(),
    )
    best = member.trainable.restored(member.best.tensors(), provenance)
    _save(best, place, scorer.run_data.backbone)
    return best


def _warned(member: FleetMember, run_data: RunData, last: Last | None) -> tuple[str, ...]:
    """What a user should look at; each line is logged, too."""
    lines = [*not_learning(member, run_data), *wrong_scale(member)]
    lines += worse_calibrated(member, last) if last else []
    lines += spikes_and_underflow(member.name, read_record(member.record.path))
    if is_dropped(member.status):
        lines.append(f"{member.name}: {member.status}; the other prompts went on; try a lower --lr")
    for line in lines:
        log.warning(line)
    return tuple(lines)


def _result(
    member: FleetMember, run_data: RunData, folder: Path, seconds: float, last: Last | None, best: Stored | None
) -> Result:
    """How a member ended; without `last` and `best`, it has no version that was scored."""
    norm, token_norm = None if best is None else prompt_norm(best.vectors), member.trainable.token_norm
    training = member.provenance.training
    return Result(
        run=str(folder),
        prompt=member.name,
        task=run_data.task.name,
        method=member.settings.method,
        seed=member.settings.seeds.initialization,
        units=training["units"],
        lr=training["lr"],
        metrics={} if last is None else _metrics(member, last),
        majority=constant_score(run_data.task, run_data.test.gold),
        best_step=member.best_step,
        trainable=training["trainable"],
        head=best.head.count if best is not None and best.head else 0,
        stored=0 if best is None else best.stored,
        norm=norm,
        token_norms=None if norm is None or token_norm is None else norm / token_norm,
        prompt_steps=recorded_steps(member.record.path) + losers_steps(folder / member.name, member.restarts),
        restarts=member.restarts,
        calibration=None if last is None else last.calibrated,
        seconds=seconds,
        status=FINISHED if member.is_training else member.status,
        warnings=_warned(member, run_data, last),
    )


def _save(best: Stored, folder: Path, backbone: AbstractBackbone) -> None:
    """Store what is left of a member, unless that was done before its result was written."""
    if isinstance(best, SoftPrompt):
        if not (folder / PROMPT).exists():
            save_prompt(best, folder / PROMPT)
    elif not (folder / WEIGHTS).exists():
        save_tuned(best, folder / WEIGHTS)
    if isinstance(best, TunedWeights) and best.kind in WRITTEN_FOR_PEFT and has_peft() and not (folder / PEFT).exists():
        save_peft(best, folder / PEFT, backbone)


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
