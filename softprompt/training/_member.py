"""One prompt while it trains: what changes from step to step, and how that goes into and out of a checkpoint."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from ..errors import BadInput
from ..inference.evaluate import Report
from ..prompts.prompt import LinearHead, Provenance, SoftPrompt
from ..prompts.trainable import TrainablePrompt
from ..regularizers import regularizers
from ..settings import PromptSettings
from ._optimizer import PromptOptimizer
from ._records import Record


@runtime_checkable
class AbstractRace(Protocol):
    """How one of several candidates for a prompt is chosen."""

    def is_over(self, step: int, candidates: "Sequence[FleetMember]") -> bool:
        """Whether one is chosen after this step."""
        ...

    def choose(self, step: int, candidates: "Sequence[FleetMember]") -> "FleetMember":
        """The candidate that goes on."""
        ...


@final
class FleetMember:
    """A prompt with its optimiser, its rows, its record and the best prompt so far.

    Args:
        name: unique in the run; the prompt's folder.
        settings: what it was told.
        trainable: the parameters.
        optimizer: moves them.
        rows: the training rows it may see.
        batches: endless batches of those rows, continued where the run stands.
        record: its metrics.jsonl.
        provenance: what a prompt of this prompt says of itself; metrics are added when it is stored.
        race: shared by the candidates of a prompt with restarts, until one of them is the prompt.
    """

    def __init__(
        self,
        *,
        name: str,
        settings: PromptSettings,
        trainable: TrainablePrompt,
        optimizer: PromptOptimizer,
        rows: list[int],
        batches: Iterator[list[int]],
        record: Record,
        provenance: Provenance,
        race: AbstractRace | None = None,
    ):
        self.name, self.settings, self.trainable, self.optimizer = name, settings, trainable, optimizer
        self.regularizers = regularizers(settings.regularizer)
        self.rows, self.batches, self.record, self.provenance = rows, batches, record, provenance
        self.race = race
        self.status = "training"
        self.best: SoftPrompt | None = None
        self.best_step = 0
        self.best_score = -math.inf
        self.best_metrics: dict[str, float] = {}
        self.stale = 0

    @property
    def is_training(self) -> bool:
        """Whether it still takes part in the fleet's passes."""
        return self.status == "training"

    @property
    def restarts(self) -> dict[str, Any] | None:
        """How this beginning was chosen; None before that, and without restarts."""
        return self.provenance.training.get("restarts")

    def goes_on(self, name: str, record: Record, restarts: Mapping[str, Any]) -> "FleetMember":
        """From now on this candidate is the prompt: with its name and record, and with how it was chosen."""
        self.name, self.record, self.race = name, record, None
        self._remember(restarts)
        return self

    def close(self) -> None:
        """Close the record."""
        self.record.close()

    def drop(self, step: int, reason: str) -> None:
        """Leave the fleet for good; what was best before stays."""
        self.status = f"dropped at step {step}: {reason}"
        self.record.write({"step": step, "dropped": reason})

    def judge(self, step: int, prompt: SoftPrompt, report: Report, patience: int | None) -> None:
        """Record an evaluation, keep the prompt if it is the best, stop after `patience` that are not better."""
        self.record.write({"step": step, "split": "validation", **report.metrics, "invalid": report.invalid})
        if report.metrics["score"] > self.best_score:
            self.best, self.best_step, self.stale = prompt, step, 0
            self.best_score, self.best_metrics = report.metrics["score"], report.metrics
        else:
            self.stale += 1
        if patience is not None and self.stale >= patience:
            self.status = f"stopped early at step {step}"

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint keeps of this prompt in tensors."""
        kept = {f"parameters.{name}": value.detach() for name, value in self.trainable.state_dict().items()}
        kept |= {f"adamw.{name}": value for name, value in self.optimizer.state().items()}
        if self.best is not None:
            kept["best.vectors"] = self.best.vectors
            if self.best.deep is not None:
                kept["best.deep"] = self.best.deep
            if self.best.head is not None:
                kept |= {"best.head.weight": self.best.head.weight, "best.head.bias": self.best.head.bias}
        return kept

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint keeps of this prompt in plain values."""
        chosen: dict[str, Any] = {} if self.restarts is None else {"restarts": self.restarts}
        chosen |= {"standardized": True} if self.trainable.numbers else {}
        return {
            **chosen,
            "name": self.name,
            "status": self.status,
            "best_step": self.best_step,
            "best_metrics": self.best_metrics,
            "stale": self.stale,
            "recorded_bytes": self.record.mark(),
        }

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from what `tensors` and `state` returned."""
        if self.trainable.numbers and not state.get("standardized"):
            raise BadInput(f"{self.name} was started by a version that trained on numbers as they are; start a new run")
        self.trainable.load_state_dict(below("parameters.", tensors))
        self.optimizer.load_state(below("adamw.", tensors))
        if "restarts" in state:
            self._remember(state["restarts"])
        best = below("best.", tensors)
        if best:
            head = LinearHead(best["head.weight"], best["head.bias"]) if "head.weight" in best else None
            repeats, deep = self.trainable.method.repeats, best.get("deep")
            self.best = SoftPrompt(best["vectors"], self.provenance, repeats, head, deep)
            self.best_score = state["best_metrics"]["score"]
        self.status, self.stale = state["status"], state["stale"]
        self.best_step, self.best_metrics = state["best_step"], state["best_metrics"]

    def _remember(self, restarts: Mapping[str, Any]) -> None:
        training = {**self.provenance.training, "restarts": dict(restarts)}
        self.provenance = dataclasses.replace(self.provenance, training=training)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def is_finite(trainable: TrainablePrompt) -> bool:
    """Whether a prompt folded from this prompt could be stored."""
    deep = [] if (layers := trainable.folded_deep()) is None else [layers]
    return all(
        bool(torch.isfinite(values).all()) for values in (trainable.folded(), *deep, *trainable.head_parameters())
    )
