"""`softprompt show`: a run, a prompt or a task, whichever the name stands for."""

import dataclasses
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UnknownName, visible
from ..run_layout import is_run
from ..tasks import TASKS
from ._layout import width_of
from ._several import summary
from ._tasks import print_task
from .options import Json
from .printing import print_json, record, table

if TYPE_CHECKING:
    from ..prompts.prompt import SoftPrompt
    from ..prompts.tuned import Stored
    from ..training import Result

log = logging.getLogger("softprompt")


def show(
    name: Annotated[
        str, typer.Argument(metavar="RUN|PROMPT|TASK", help="Folder of a run or a prompt, or name of a task.")
    ],
    json_lines: Json = False,
) -> None:
    """Describe a run, a stored prompt or a task."""
    path = Path(name)
    if is_run(path):
        _show_run(path, json_lines)
    elif path.exists():
        _show_prompt(path, json_lines)
    elif name in TASKS:
        print_task(TASKS[name], json_lines)
    else:
        raise UnknownName("run, prompt or task", name, TASKS)


def _show_run(folder: Path, json_lines: bool) -> None:
    from ..training import damage, read_plan, read_results

    plan = read_plan(folder)
    for line in damage(folder):
        log.warning(line)
    results = read_results(folder)
    ended = {result.prompt: result for result in results}
    prompts = [{"prompt": name, **_member(folder / name, ended.get(name))} for name in plan.prompt_names()]
    if json_lines:
        print_json({"run": str(folder), **plan.to_json(), "prompts": prompts})
        return
    given = {f.name: getattr(plan.settings, f.name) for f in dataclasses.fields(plan.settings)}
    print(record({"run": str(folder), "task": plan.task.name, "model": plan.model.name, **given}, width_of(sys.stdout)))
    print()
    print(table([_row(prompt) for prompt in prompts], width_of(sys.stdout)))
    for prompt in prompts:
        for warning in prompt.get("warnings", ()):
            print(visible(f"{prompt['prompt']}: {warning}"))
    for result in results:
        if result.restarts is not None:
            print(f"{result.prompt}: {restart_told(result.restarts)}")
    if len(results) > 1:
        print()
        print(table(summary(results), width_of(sys.stdout)))


def _member(folder: Path, result: "Result | None") -> dict[str, Any]:
    """What is stored of a prompt of a run, and how it ended; without a result it is not finished."""
    from ..interop.stored import load

    is_stored = (folder / "prompt").exists() or (folder / "weights").exists()
    stored = describe(load(folder)) if is_stored else {}
    if result is None:
        return {**stored, "status": "not finished", "metrics": {}}
    status = result.status if is_stored or result.is_dropped else f"{result.status}, its prompt is missing"
    return {**stored, "status": status, "metrics": result.metrics}


def _row(prompt: Mapping[str, Any]) -> dict[str, Any]:
    metrics = prompt["metrics"]
    scores = {f"{split} score": metrics.get(split, {}).get("score") for split in ("validation", "test")}
    counts = {"stored": prompt.get("stored"), "norm": norm_told(prompt)}
    return {"prompt": prompt["prompt"], **scores, **counts, "status": prompt["status"]}


def restart_told(restarts: Mapping[str, Any]) -> str:
    """Which initialisation of a prompt continued, and the losses that decided it, as text."""
    if all(loss is None for loss in restarts["losses"]):
        return f"all {restarts['count']} restarts were dropped"
    losses = ", ".join("dropped" if loss is None else f"{loss:.4f}" for loss in restarts["losses"])
    return (
        f"restart {restarts['chosen']} (of 0 to {restarts['count'] - 1}) went on after step {restarts['steps']}; "
        f"training losses over the last {restarts['window']} steps: {losses}"
    )


def norm_told(prompt: Mapping[str, Any]) -> str | None:
    """The norm of a described prompt as people read it."""
    from ..prompts.units import format_norm

    return None if prompt.get("norm") is None else format_norm(prompt["norm"], prompt["token_norm"])


def _show_prompt(folder: Path, json_lines: bool) -> None:
    from ..interop.stored import load

    values = describe(load(folder))
    if json_lines:
        print_json(values)
        return
    norms = {"norm": norm_told(values), "token_norm": None, "token_norms": None}
    print(record(flat({**values, **norms}), width_of(sys.stdout)))


def describe(stored: "Stored") -> dict[str, Any]:
    """Everything about a prompt or trained weights except the numbers themselves; of a prompt also the mean norm."""
    from ..prompts.prompt import SoftPrompt

    if isinstance(stored, SoftPrompt):
        return _described(stored)
    return {**_described(stored.prompt), "stored": stored.stored, "options": dict(stored.options)}


def _described(prompt: "SoftPrompt") -> dict[str, Any]:
    from ..prompts.units import prompt_norm

    origin = prompt.provenance
    norm, token_norm = prompt_norm(prompt.vectors), _number(origin.training.get("token_norm"))
    token_norms = None if norm is None or token_norm is None else norm / token_norm
    return {
        "method": origin.method,
        "task": origin.task.get("name") if origin.task else None,
        "labels": origin.task.get("labels") if origin.task else None,
        "backbone": dataclasses.asdict(origin.backbone),
        "answers": origin.answers,
        "prompt_length": prompt.length,
        "repeats": prompt.repeats,
        "layers": prompt.layers,
        "stored": prompt.stored,
        "head": prompt.head.count if prompt.head else 0,
        "norm": norm,
        "token_norm": token_norm,
        "token_norms": token_norms,
        "warnings": [] if token_norms is None else _warnings(prompt, token_norms),
        "metrics": origin.metrics,
        "seeds": origin.seeds,
        "training": origin.training,
        "versions": origin.versions,
    }


def _warnings(prompt: "SoftPrompt", token_norms: float) -> list[str]:
    from ..prompts.methods import METHODS
    from ..prompts.units import norm_warning

    origin = prompt.provenance
    warning = norm_warning(
        token_norms,
        one_vector=len(prompt.vectors) == 1,
        lr=_number(origin.training.get("lr")),
        units=origin.training.get("units"),
        has_radius=origin.method in METHODS and METHODS[origin.method].is_direction,
    )
    return [warning] if warning else []


def _number(value: Any) -> float | None:
    """A positive number, as far as a file of unknown origin holds one."""
    return value if isinstance(value, int | float) and value > 0 else None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, the names joined by blanks."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        plain |= flat(value, f"{prefix}{name} ") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return plain
