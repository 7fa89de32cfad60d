"""The end of a run: each best prompt scored and stored, and the results read again."""

import dataclasses
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..backbones import AbstractBackbone
from ..baselines import WRITTEN_FOR_PEFT, has_peft, save_peft
from ..documents import SEALED, check_shape, in_file, read_sealed, sealed_bytes
from ..errors import BadInput, DamagedFile, quoted
from ..inference.report import majority_score
from ..legacy import renamed
from ..metrics import ERRORS, headline_score, score
from ..prompts.prompt import SoftPrompt
from ..prompts.seeds import stream_seed
from ..prompts.tuned import Stored, TunedWeights
from ..prompts.units import prompt_norm
from ..store import save_prompt, save_tuned, write_file
from ..tasks import Task
from ._advice import ADVICE, not_learning, wrong_scale
from ._damage import RESULT, files_of
from ._last import Last
from ._loop import Loop
from ._member import FleetMember
from ._plan import Plan, Result, read_plan
from ._records import read_record, recorded_steps
from ._restarts import losers_steps
from ._spikes import spikes_and_underflow

log = logging.getLogger(ADVICE)

# Results of earlier versions say no format and have no checksum.
FORMAT = SEALED
# Enough to tell rows learnt by heart from rows not learnt, to 0.02; more would cost as much as the test rows.
TRAIN_SCORE_ROWS = 500


def last_reports(plan: Plan, loop: Loop) -> dict[str, Last]:
    """The final scores of the best version of each prompt, computed in shared passes."""
    members = [member for member in loop.members if member.best is not None]
    prompts, run_data = [member.best for member in members if member.best is not None], loop.run_data
    splits = {"test": [(run_data.test, answers) for answers in loop.answers(prompts, run_data.test)]}
    if plan.settings.train_score:
        rows = [own_rows(member.rows, member.settings.seeds.draw) for member in members]
        answers = loop.answers(prompts, run_data.train, rows)
        splits["train"] = [(run_data.train.select(seen), given) for seen, given in zip(rows, answers, strict=True)]
    validation = loop.answers(prompts, run_data.validation) if plan.settings.calibrate else []
    return {
        member.name: Last.of(
            plan.task,
            {split: pairs[number] for split, pairs in splits.items()},
            (run_data.validation, validation[number]) if validation else None,
        )
        for number, member in enumerate(members)
    }


def finish_member(
    plan: Plan,
    loop: Loop,
    member: FleetMember,
    folder: Path,
    seconds: float,
    reports: Mapping[str, Last],
) -> Result:
    """Store the prompt's best prompt with its scores, and write its result last."""
    member.record.mark()
    metrics: dict[str, Any] = {}
    stored, head, norm, token_norm = 0, 0, None, member.trainable.token_norm
    if member.best is not None:
        metrics = {"validation": member.best_metrics}
        last = reports[member.name]
        metrics |= {split: {**scores.metrics, "invalid": scores.invalid} for split, scores in last.reports.items()}
        provenance = dataclasses.replace(
            member.provenance,
            metrics=metrics,
            training={**member.provenance.training, "best_step": member.best_step},
            scoring=dataclasses.replace(loop.scoring, calibration=last.calibration).to_json(),
        )
        best = member.trainable.restored(member.best.tensors(), provenance)
        _save(best, folder / member.name, loop.run_data.backbone)
        stored, head, norm = best.stored, best.head.count if best.head else 0, prompt_norm(best.vectors)
    warnings = [*not_learning(member, plan.task, loop.run_data.validation.gold), *wrong_scale(member)]
    warnings += spikes_and_underflow(member.name, read_record(member.record.path))
    if not member.is_training and member.status.startswith("dropped"):
        warnings.append(f"{member.name}: {member.status}; the other prompts went on; try a lower --lr")
    for line in warnings:
        log.warning(line)
    result = Result(
        run=str(folder),
        prompt=member.name,
        task=plan.task.name,
        method=member.settings.method,
        seed=member.settings.seeds.initialization,
        units=member.provenance.training["units"],
        lr=member.provenance.training["lr"],
        metrics=metrics,
        majority=constant_score(plan.task, loop.run_data.test.gold),
        best_step=member.best_step,
        trainable=member.provenance.training["trainable"],
        head=head,
        stored=stored,
        norm=norm,
        token_norms=None if norm is None or token_norm is None else norm / token_norm,
        prompt_steps=recorded_steps(member.record.path) + losers_steps(folder / member.name, member.restarts),
        restarts=member.restarts,
        calibration=reports[member.name].calibrated if member.name in reports else None,
        seconds=seconds,
        status="finished" if member.is_training else member.status,
        warnings=tuple(warnings),
    )
    # Without the seconds: a resumed run leaves the same bytes as one that never stopped.
    plain = {name: value for name, value in result.to_json().items() if name not in ("seconds", "run")}
    place = folder / member.name
    plain |= {"format": FORMAT, "files": files_of(place)}
    write_file(place / RESULT, sealed_bytes(plain), what=f"the result of {member.name}", replace=True)
    return result


def _save(best: Stored, folder: Path, backbone: AbstractBackbone) -> None:
    """Store what is left of a member, unless that was done before its result was written."""
    if isinstance(best, SoftPrompt):
        if not (folder / "prompt").exists():
            save_prompt(best, folder / "prompt")
    elif not (folder / "weights").exists():
        save_tuned(best, folder / "weights")
    if (
        isinstance(best, TunedWeights)
        and best.kind in WRITTEN_FOR_PEFT
        and has_peft()
        and not (folder / "peft").exists()
    ):
        save_peft(best, folder / "peft", backbone)


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


def read_result(folder: Path, member: str) -> Result | None:
    path = folder / member / RESULT
    if not path.exists():
        return None
    repair = f"delete it and --resume {quoted(folder)}"
    values = renamed(read_sealed(path, earlier_names=["metrics"], repair=repair))
    if values.pop("format", FORMAT) != FORMAT:
        raise BadInput(f"{path} is of another version of softprompt; upgrade it, or {repair}")
    values.pop("files", None)
    with in_file(path):
        check_shape(Result, {"run": "", "seconds": 0, **values}, metrics=Mapping[str, Mapping[str, int | float | None]])
    try:
        return Result(**{**values, "warnings": tuple(values["warnings"])}, run=str(folder), seconds=seconds_of(folder))
    except (TypeError, KeyError) as error:
        raise DamagedFile(f"{path} cannot be read ({error}); {repair}") from error


def read_results(run: "Path | str") -> list[Result]:
    """The results of a run's prompts that have ended, in the order of the run.

    Raises:
        BadInput: no run there.
        DamagedFile: a result cannot be read.
    """
    folder = Path(run)
    return [result for name in read_plan(folder).prompt_names() if (result := read_result(folder, name))]


def seconds_of(folder: Path) -> float:
    """Wall time of the run over all its processes."""
    return round(sum((row["seconds"] for row in read_record(folder / "timing.jsonl")), 0.0), 3)
