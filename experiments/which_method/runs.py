"""Runs of a method on a task with a rate and a seed, and the records that are kept of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.builtin import BUILT_IN
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, StoredRun, run_all
from softprompt.study.stability import last_loss

from .candidates import CANDIDATES, Candidate
from .design import Frozen, Part, rows_of

# Runs that share a pass of the frozen model.
FLEET_SIZE = 8
KEPT = ("score", "validation", "train", "loss", "norm", "steps", "majority", "lr", "seconds", "status")
# Validation rows of a real task that a run is scored on.
REAL_ROWS = 500


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where runs are kept and made.

    Args:
        store: folder of the runs.
        results: the file of `read_results`.
        data_root: folder with rows of real tasks; None asks the hub.
        encoder: folder or hub id of the real encoder; None is the bundled one.
        device: "auto", "cpu" ...
        progress: show bars on standard error.
    """

    store: Path
    results: Path
    data_root: Path | None = None
    encoder: str | None = None
    device: str = "auto"
    progress: bool = False

    def source(self, model: str) -> str:
        """What a model of the design is loaded from.

        Raises:
            BadInput: no real encoder is at hand.
        """
        return model if model in BUILT_IN else self.encoder or "minilm"


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """One run: a method on a task with a rate and a seed.

    Args:
        task: name in TASKS.
        candidate: name in CANDIDATES.
        rate: learning rate; of a head alone, the head's.
        seed: for every purpose.
        head_rate: of the head beside a prompt, where there is one.
    """

    task: str
    candidate: str
    rate: float
    seed: int
    head_rate: float | None = None


def measured(
    model: str, frozen: Frozen, part: Part, wanted: Sequence[RunRequest], place: Place, *, trial: bool = False
) -> list[dict[str, Any]]:
    """What is kept of each wanted run, made where the store lacks it.

    Args:
        model: name in the design.
        frozen: what the design says of it.
        part: length of training and the like.
        wanted: the runs.
        place: where.
        trial: more validation rows, and hardly a test row.

    Raises:
        SoftPromptError: as in `run_all`.
    """
    specs = [_spec(place.source(model), frozen, part, request, trial) for request in wanted]
    options: dict[str, Any] = {"data_root": place.data_root, "device": place.device}
    runs = run_all(specs, place.store, fleet_size=FLEET_SIZE, progress=place.progress, **options)
    records = []
    for run, request in zip(runs, wanted, strict=True):
        values = _kept(run)
        if CANDIDATES[request.candidate].kind == "head":
            # A linear probe is recorded as a prompt of length 0, whose norm says nothing.
            values["norm"] = None
        records.append({name: _rounded({**values, "lr": request.rate}[name]) for name in KEPT})
    return records


def _spec(source: str, frozen: Frozen, part: Part, request: RunRequest, trial: bool) -> RunSpec:
    candidate = CANDIDATES[request.candidate]
    task = rows_of(request.task, trial=trial)
    settings = TrainSettings(
        steps=part.steps,
        # Only the last step is evaluated, because validation chooses nothing except the rate.
        eval_every=part.steps,
        eval_rows=None if task.source.world else REAL_ROWS,
        shots=part.shots,
        train_score=part.shots is not None,
        backbone_dropout=part.dropout,
        max_length=frozen.max_length,
    )
    scale = 1.0 if frozen.scale is None else candidate.scale / frozen.scale
    backbone = {} if scale == 1 else {"embedding_scale": scale}
    # Weights are trained by the reference passes. Where these are asked for by name, no run warns of them.
    engine = "reference" if candidate.kind == "full" else "auto"
    prompt = _prompt(candidate, request)
    return RunSpec(task=task, model=source, prompt=prompt, settings=settings, backbone=backbone, engine=engine)


def _prompt(candidate: Candidate, request: RunRequest) -> PromptSettings:
    seeds = Seeds.all(request.seed)
    if candidate.kind == "head":
        return PromptSettings(method=candidate.method, head_lr=request.rate, seeds=seeds)
    head: Mapping[str, Any] = {} if request.head_rate is None else {"head_lr": request.head_rate}
    return PromptSettings(method=candidate.method, lr=request.rate, seeds=seeds, **candidate.prompt, **head)


def _kept(run: StoredRun) -> dict[str, Any]:
    return {
        "score": run.score,
        "validation": run.validation_score,
        "train": run.metrics.get("train", {}).get("score"),
        "loss": last_loss(run),
        "norm": run.at_best("token_norms"),
        "steps": run.prompt_steps,
        "majority": run.majority,
        "seconds": run.seconds,
        "status": run.status,
    }


def _rounded(value: Any) -> Any:
    """Six digits, as in a stored run's curve."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
