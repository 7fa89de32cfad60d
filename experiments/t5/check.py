"""A check with the user's T5: scaled, EPT* and prompt tuning on real tasks within a given time."""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.errors import BadInput, DamagedFile, UnsupportedModel
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, StoredRun, markdown, missing, read, run_all

from ..claims.check import FEWEST, Check, at_least, verdict
from ..claims.norms import MARGIN as EXPLOSION

log = logging.getLogger("softprompt")

TASKS = ("glue/sst2", "glue/rte")
# Each at its default learning rate; none is tuned here.
METHODS = ("prompt-tuning", "ept-star", "scaled")
MAX_LENGTH = 128
# The steps of a run: the first number that the minutes allow.
STEPS = (250, 100, 50, 25, 10)
VALIDATION_ROWS = 200
# Share of the time that training may take, because scoring needs the rest.
SHARE = 0.7
TRIAL_STEPS = 2
FAMILIES = ("t5", "mt5", "umt5", "longt5")
GAIN = 0.02


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of the runs of a T5.

    Args:
        model: its folder.
        steps: of every run.
        seeds: finished.
        runs: one row a task and method: n, mean score, norms.
        checks: by claim.
        left: what was asked for and is not there.
    """

    model: str
    steps: int
    seeds: int
    runs: Sequence[dict[str, Any]]
    checks: Mapping[str, Sequence[Check]]
    left: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, each claim with its verdict."""
        values = dataclasses.asdict(self)
        claims = {
            name: {"verdict": verdict(checks), "checks": values["checks"][name]} for name, checks in self.checks.items()
        }
        return {**values, "checks": claims}


def check(
    model: "Path | str",
    store: "Path | str",
    *,
    data_root: "Path | str | None" = None,
    minutes: float = 30.0,
    steps: int | None = None,
    seeds: int = 5,
    device: str = "auto",
    progress: bool = True,
) -> Found:
    """Train seed after seed until the minutes are over; at least one, and never more than asked.

    How many steps is decided once, by the time of a trial, and kept in the store: every later call goes on with it.

    Args:
        model: folder of a T5 with its tokenizer.
        store: folder of the runs.
        data_root: folder with rows; None asks the hub.
        minutes: no seed is begun after them, nor one that would not fit.
        steps: optimiser steps; None takes what the minutes allow.
        seeds: at most.
        device: "auto", "cpu", "cuda" ...
        progress: show what is trained on standard error.

    Raises:
        BadInput: no model, tokenizer or rows there, or a store of other steps.
        UnsupportedModel: not a T5.
    """
    begun, store = time.monotonic(), Path(store)
    _refuse_no_t5(Path(model))
    _refuse_no_rows(data_root)
    plan = _plan(Path(model), store, data_root, steps, minutes, device)
    options: dict[str, Any] = {
        "fleet_size": len(METHODS),
        "data_root": data_root,
        "device": device,
        "progress": progress,
    }
    slowest = 0.0
    for seed in range(seeds):
        specs = runs_of(model, plan, [seed])
        is_new = bool(missing(store, specs))
        if is_new and seed and time.monotonic() - begun + slowest > 60 * minutes:
            break
        since = time.monotonic()
        run_all(specs, store, **options)
        slowest = max(slowest, time.monotonic() - since if is_new else 0.0)
    runs = read(store, runs_of(model, plan, range(seeds)))
    return judged(str(model), plan, [run for run in runs if run], seeds)


def runs_of(model: "Path | str", steps: int, seeds: Sequence[int]) -> list[RunSpec]:
    """Every task and method with these seeds."""
    settings = TrainSettings(steps=steps, eval_every=steps, eval_rows=VALIDATION_ROWS, max_length=MAX_LENGTH)
    return [
        RunSpec(
            task=task, model=str(model), prompt=PromptSettings(method=method, seeds=Seeds.all(seed)), settings=settings
        )
        for seed in seeds
        for task in TASKS
        for method in METHODS
    ]


def judged(model: str, steps: int, runs: Sequence[StoredRun], wanted: int) -> Found:
    """The result of stored runs."""
    cells = {
        (run.spec.declared.name, run.spec.prompt.method, run.spec.prompt.seeds.initialization): run for run in runs
    }
    seeds = sorted({seed for _, _, seed in cells})
    whole = [s for s in seeds if all((task, method, s) in cells for task in TASKS for method in METHODS)]

    def pairs(method: str, other: str) -> list[tuple[StoredRun, StoredRun]]:
        return [(cells[task, method, s], cells[task, other, s]) for task in TASKS for s in whole]

    def against(method: str) -> list[float]:
        return [_score(a) - _score(b) for a, b in pairs(method, "prompt-tuning")]

    explosions = [excess for a, b in pairs("ept-star", "prompt-tuning") if (excess := _excess(a, b)) is not None]
    checks = {
        "EPT* is better than prompt tuning": [
            at_least("EPT*, both at their default rates", "accuracy", against("ept-star"), GAIN)
        ],
        "one vector in units of the embeddings is better than prompt tuning": [
            at_least("scaled, both at their default rates", "accuracy", against("scaled"), GAIN)
        ],
        "EPT*'s norm explodes, prompt tuning's does not": [
            at_least("EPT* at its default rate", "powers of ten", explosions, EXPLOSION)
        ],
    }
    left = "" if len(whole) >= wanted else f"{wanted - len(whole)} of {wanted} seeds; run again with more --minutes"
    rows = [_row(task, method, [cells[task, method, s] for s in whole]) for task in TASKS for method in METHODS]
    return Found(model=model, steps=steps, seeds=len(whole), runs=rows, checks=checks, left=left)


def text(decision: Found) -> str:
    """The tables, in Markdown."""
    rows = [
        {
            "claim": name,
            "verdict": verdict(checks),
            "mean": "" if check.mean is None else f"{check.mean:+.3f}",
            "95 %": "" if check.low is None or check.high is None else f"{check.low:+.3f} to {check.high:+.3f}",
            "n": check.n,
            "needed": f"{check.needed} ({check.quantity})",
        }
        for name, checks in decision.checks.items()
        for check in checks
    ]
    head = f"{decision.model}: {decision.steps} steps of 16 rows, {decision.seeds} seeds, default rates, last step"
    few = "Fewer than six pairs of task and seed decide nothing." if len(TASKS) * decision.seeds < FEWEST else ""
    parts = [head, markdown(rows), markdown(decision.runs), few, f"Not run: {decision.left}." if decision.left else ""]
    return "\n\n".join(part for part in parts if part)


def _row(task: str, method: str, runs: Sequence[StoredRun]) -> dict[str, Any]:
    scores = [_score(run) for run in runs]
    row: dict[str, Any] = {"task": task, "method": method, "n": len(runs)}
    row["score"] = f"{sum(scores) / len(scores):.3f}" if scores else ""
    chance = next((run.majority for run in runs if run.majority is not None), None)
    norms = [norm for run in runs if (norm := run.at_best("token_norms")) is not None]
    majority = {"majority": "" if chance is None else f"{chance:.3f}"}
    return {**row, **majority, "token norms": f"{sum(norms) / len(norms):.3g}" if norms else ""}


def _score(run: StoredRun) -> float:
    """The test score; of a dropped run that of the most frequent class."""
    return run.score if run.score is not None else run.majority or 0.0


def _norms(run: StoredRun) -> list[float]:
    return [norm for norm in run.curve.get("token_norms", ()) if norm is not None]


def _excess(run: StoredRun, other: StoredRun) -> float | None:
    """log10 of the peak norm over the larger of the run's first and the other's peak."""
    ours, theirs = _norms(run), _norms(other)
    if not ours or not theirs or not (reference := max(ours[0], *theirs)):
        return None
    return math.log10(max(ours) / reference) if max(ours) > 0 else None


def _refuse_no_t5(model: Path) -> None:
    """Refuse a folder that is no T5, before anything heavy is read.

    Raises:
        BadInput: no folder with a configuration.
        UnsupportedModel: another family.
    """
    path = model / "config.json"
    if not path.is_file():
        raise BadInput(f"{str(model)!r} holds no config.json; give the folder of a T5 that `save_pretrained` wrote")
    try:
        family = json.loads(path.read_bytes()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise DamagedFile(f"{path} is not a model's configuration; save the model again") from error
    if family not in FAMILIES:
        raise UnsupportedModel(
            f"{str(model)!r} is a {family}, not a T5; give the folder of a T5, or use `softprompt train`"
        )
    tokenizers = ("tokenizer.json", "spiece.model")
    if not any((model / name).is_file() for name in tokenizers):
        raise BadInput(f"{str(model)!r} holds no tokenizer ({' or '.join(tokenizers)}); save it beside the model")


def _refuse_no_rows(data_root: "Path | str | None") -> None:
    """Refuse a data root without the tasks, before any training.

    Raises:
        BadInput: names the folder that is missing.
    """
    if data_root is None:
        return
    for task in TASKS:
        if not (Path(data_root) / task).is_dir():
            raise BadInput(f"no rows of {task} under {str(data_root)!r}; put them into {Path(data_root) / task}")


def _plan(
    model: Path, store: Path, data_root: "Path | str | None", steps: int | None, minutes: float, device: str
) -> int:
    """The steps of every run: those of the store, those asked for, or what a trial says the minutes allow."""
    from softprompt.store import json_bytes, read_json, write_file

    path = store / "plan.json"
    if path.exists():
        kept = read_json(path).get("steps")
        if not isinstance(kept, int):
            raise DamagedFile(f"{path} says no steps; delete it and run again")
        if steps not in (None, kept):
            raise BadInput(f"the store {store} has runs of {kept} steps, not {steps}; give another --store")
        return kept
    chosen = steps or _affordable(model, data_root, minutes, device)
    write_file(path, json_bytes({"model": str(model), "steps": chosen}), what="the plan of the check")
    return chosen


def _affordable(model: Path, data_root: "Path | str | None", minutes: float, device: str) -> int:
    """The most of STEPS with which one seed of all tasks and methods fits, by the time of a few steps of one fleet."""
    import tempfile

    specs = [s for s in runs_of(model, TRIAL_STEPS, [0]) if s.declared.name == TASKS[1]]
    settings = dataclasses.replace(specs[0].settings, eval_every=TRIAL_STEPS + 1, eval_rows=1)
    with tempfile.TemporaryDirectory() as folder:
        since = time.monotonic()
        run_all(
            [dataclasses.replace(spec, settings=settings) for spec in specs], folder,
            fleet_size=len(METHODS), data_root=data_root, device=device, progress=False,
        )  # fmt: skip
        seconds = time.monotonic() - since
    # The time includes scoring and loading, so the estimate leads to fewer steps rather than more.
    each = seconds / TRIAL_STEPS
    allowed = [steps for steps in STEPS if steps * each * len(TASKS) <= SHARE * 60 * minutes]
    chosen = allowed[0] if allowed else STEPS[-1]
    log.info("a step of %d prompts takes about %.2g s; %d steps a run", len(METHODS), each, chosen)
    return chosen
