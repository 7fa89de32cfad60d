"""The prompts of a run's folder, also of one that is still trained, was killed, or has a damaged record."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import SoftPromptError
from ..run_layout import METRICS
from ..store import read_json
from ..study import RunSpec, StoredRun, curves, model_fields
from ..training import (
    Comparison,
    Plan,
    Result,
    checked_record,
    is_held,
    read_comparison,
    read_plan,
    read_result,
    share_of,
)
from ._entry import Entry, State


def run_entries(folder: Path, shown: str) -> list[Entry]:
    """One entry for each prompt of a run, in the order of the run.

    Args:
        folder: of the run.
        shown: its name on the page.

    Raises:
        BadInput: the plan of the run cannot be read.
    """
    plan = read_plan(folder)
    unfinished: State = "in training" if is_held(folder) else "not finished"
    comparison, fault = _comparison(folder)
    shared = {"comparison": comparison, "data": _fingerprint(folder)}
    notes = (fault,) if fault else ()
    return [
        _entry(folder, shown, plan, number, found, unfinished, notes, shared)
        for number, found in enumerate(_results(folder, plan))
    ]


def _entry(
    folder: Path,
    shown: str,
    plan: Plan,
    number: int,
    found: tuple[Result | None, str],
    unfinished: State,
    notes: Sequence[str],
    shared: Mapping[str, Any],
) -> Entry:
    (result, fault), name = found, plan.prompt_names()[number]
    rows, faults = checked_record(folder / name / METRICS)
    reached = max((row["step"] for row in rows if "loss" in row), default=0)
    steps = plan.settings.steps
    lines = [*notes, *faults, *([fault] if fault else ())]
    if result is None:
        state, planned = unfinished, "" if steps is None else f" of {steps:,}"
        what = "still in training" if state == "in training" else "not trained to its end"
        lines.append(f"{what}: it has reached step {reached:,}{planned}, and its test score is not known")
    else:
        state = "finished"
    if reached == 1:
        lines.append("it has a single step, so its curves are one point")
    curve, validation = curves(_finite(rows))
    return Entry(
        label=f"{shown}/{name}",
        run=_stored(plan, number, name, result, curve, validation, reached),
        state=state,
        reached=reached,
        steps=steps,
        folder=folder / name,
        notes=tuple(lines),
        prompt=name,
        **shared,
    )


def _stored(
    plan: Plan, number: int, name: str, result: Result | None, curve: Any, validation: Mapping[str, Any], reached: int
) -> StoredRun:
    asked = {"task": plan.task, "settings": plan.settings, "max_bad_rows": plan.max_bad_rows}
    spec = RunSpec(prompt=plan.prompts[number], **asked, **model_fields(plan.model))
    if result is None:
        # Of a prompt that is not finished only the validation score so far is known.
        scores = [score for score in validation.get("score", ()) if score is not None]
        metrics: dict[str, Any] = {"validation": {"score": max(scores)}} if scores else {}
        return StoredRun.without_result(
            spec, metrics, "not finished", curve=curve, validation=validation, prompt_steps=reached
        )
    return StoredRun.of(
        spec,
        result,
        seconds=result.seconds,
        curve=curve,
        validation=validation,
        inputs=plan.files,
        **_origin(result.run, name),
    )


def _origin(run: str, name: str) -> dict[str, Any]:
    """The provenance of the stored prompt; its numbers are not read."""
    path = next(
        (p for kind in ("prompt", "weights") if (p := Path(run) / name / kind / f"{kind}.json").is_file()), None
    )
    try:
        origin = read_json(path)["provenance"] if path else {}
        return {
            "versions": dict(origin.get("versions", {})),
            "embeddings": origin.get("backbone", {}).get("embedding_sha256"),
        }
    except (SoftPromptError, KeyError, AttributeError, TypeError):
        return {}


def _finite(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows without the steps that have no finite loss."""
    return [row for row in rows if math.isfinite(row.get("loss", 0.0))]


def _results(folder: Path, plan: Plan) -> list[tuple[Result | None, str]]:
    """The result of each prompt, whose seconds are its share, or what is wrong with it."""
    read = [_result(folder, name) for name in plan.prompt_names()]
    known = [result for result, _ in read if result]
    return [(result and dataclasses.replace(result, seconds=share_of(result, known)), fault) for result, fault in read]


def _result(folder: Path, name: str) -> tuple[Result | None, str]:
    try:
        return read_result(folder, name), ""
    except SoftPromptError as error:
        return None, error.message


def _comparison(folder: Path) -> tuple[Comparison | None, str]:
    try:
        return read_comparison(folder), ""
    except SoftPromptError as error:
        return None, error.message


def _fingerprint(folder: Path) -> str | None:
    """The SHA-256 of the rows in the newest checkpoint that can be read."""
    for state in sorted(folder.glob("checkpoints/step-*/state.json"), reverse=True):
        try:
            return str(read_json(state, max_bytes=None)["data"])
        except (SoftPromptError, KeyError):
            continue
    return None
