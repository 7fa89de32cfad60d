"""One member of a fleet during training: its state, and how a checkpoint stores and restores it."""

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, final, runtime_checkable

from torch import Tensor

from ..errors import BadInput
from ..inference.report import Report
from ..metrics import Judged
from ..prompts.contract import AbstractTrainable
from ..prompts.prompt import Provenance
from ..prompts.tuned import Stored, below
from ..regularizers import regularizers
from ..settings import PromptSettings
from ..status import TRAINING, dropped, stopped
from ._optimizer import PromptOptimizer
from ._records import Record, read_record
from ._spikes import WINDOW
from .objectives import ShownLabels


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
    """A trainable prompt with its optimiser, its rows, its record and the best stored prompt so far.

    Args:
        name: name of the prompt, unique in the run; also the name of its folder.
        settings: the settings of the prompt.
        trainable: the trainable parameters.
        optimizer: the optimiser of these parameters.
        rows: indices of the training rows that the prompt may see.
        batches: endless batches of these rows, from the current step of the run on.
        record: the record metrics.jsonl.
        provenance: the provenance of the stored prompt; metrics are added when it is stored.
        race: the race of a prompt with restarts, which its candidates share until one of them is chosen.
        beginning: a prompt that began as words, as it began; None once it is scored, and for all others.
        shown_labels: the labels of the examples that the prompt began as, if it learns to predict them.
    """

    def __init__(
        self,
        *,
        name: str,
        settings: PromptSettings,
        trainable: AbstractTrainable,
        optimizer: PromptOptimizer,
        rows: list[int],
        batches: Iterator[list[int]],
        record: Record,
        provenance: Provenance,
        race: AbstractRace | None = None,
        beginning: Stored | None = None,
        shown_labels: ShownLabels | None = None,
    ):
        self.name, self.settings, self.trainable, self.optimizer = name, settings, trainable, optimizer
        self.regularizers = regularizers(settings.regularizer)
        self.rows, self.batches, self.record, self.provenance = rows, batches, record, provenance
        self.race, self.beginning, self.shown_labels = race, beginning, shown_labels
        self.has_begun = False
        self.status = TRAINING
        self.best: Stored | None = None
        self.best_step = 0
        self.best_score = -math.inf
        self.best_label_loss: float | None = None
        self.best_metrics: dict[str, float] = {}
        # The newest evaluation of this process: its step and score.
        self.scores: dict[int, float] = {}
        self.stale = 0
        # Losses of the last steps that were taken.
        self.losses: deque[float] = deque(maxlen=WINDOW)

    @property
    def is_training(self) -> bool:
        """Whether the prompt still takes part in the passes of the fleet."""
        return self.status == TRAINING

    @property
    def restarts(self) -> dict[str, Any] | None:
        """The outcome of the race; None before the choice, and for a prompt without restarts."""
        return self.provenance.training.get("restarts")

    def goes_on(self, name: str, record: Record, restarts: Mapping[str, Any]) -> "FleetMember":
        """Continue this candidate as the prompt itself, with the name, the record and the outcome of the race."""
        self.name, self.record, self.race = name, record, None
        self._remember(restarts)
        return self

    def close(self) -> None:
        """Close the record."""
        self.record.close()

    def drop(self, step: int, reason: str) -> None:
        """Remove the prompt from the fleet. Its best stored prompt stays."""
        self.status = dropped(step, reason)
        self.record.write({"step": step, "dropped": reason})

    def stop(self, step: int, reason: str) -> None:
        """End the training of this prompt, as a callback wants it. Its best stored prompt stays."""
        self.status = stopped(step, reason)

    def judge(self, step: int, prompt: Stored, report: Report, patience: int | None) -> None:
        """Record an evaluation, and keep the prompt if it is the best so far.

        Training stops after `patience` evaluations in a row without a higher score.
        """
        score, label_loss = report.metrics["score"], report.label_loss
        losses = {} if label_loss is None else {"label_loss": label_loss}
        self.record.write({"step": step, "split": "validation", **report.metrics, **losses, "invalid": report.invalid})
        self.scores = {step: score}
        self.stale = 0 if score > self.best_score else self.stale + 1
        best = Judged(self.best_step, self.best_score, self.best_label_loss)
        if Judged(step, score, label_loss).is_better_than(best):
            self.best, self.best_step = prompt, step
            self.best_score, self.best_label_loss, self.best_metrics = score, label_loss, report.metrics
        if patience is not None and self.stale >= patience:
            self.status = stopped(step)

    def judge_beginning(self, report: Report | None) -> None:
        """Record how the words score with which the prompt began, as step 0. They are the first to be the best.

        Args:
            report: None where the model computes NaN with them; they are not stored then.
        """
        assert self.beginning is not None
        if report is not None:
            self.judge(0, self.beginning, report, None)
        self.beginning, self.has_begun = None, True

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint stores for this prompt."""
        kept = {f"parameters.{name}": value.detach() for name, value in self.trainable.state_dict().items()}
        kept |= {f"adamw.{name}": value for name, value in self.optimizer.state().items()}
        if self.best is not None:
            kept |= {f"best.{name}": value for name, value in self.best.tensors().items()}
        return kept

    def state(self) -> dict[str, Any]:
        """Return the plain values that a checkpoint stores for this prompt."""
        chosen: dict[str, Any] = {} if self.restarts is None else {"restarts": self.restarts}
        chosen |= {"standardized": True} if self.trainable.numbers else {}
        chosen |= {"has_begun": True} if self.has_begun else {}
        return {
            **chosen,
            "name": self.name,
            "status": self.status,
            "best_step": self.best_step,
            "best_metrics": self.best_metrics,
            **({} if self.best_label_loss is None else {"best_label_loss": self.best_label_loss}),
            "stale": self.stale,
            "recorded_bytes": self.record.mark(),
        }

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Restore what `tensors` and `state` returned.

        Raises:
            BadInput: an earlier version trained this prompt on numbers that were not standardised.
        """
        if self.trainable.numbers and not state.get("standardized"):
            raise BadInput(f"{self.name} was started by a version that trained on numbers as they are; start a new run")
        self.trainable.load_state_dict(below("parameters.", tensors))
        self.optimizer.load_state(below("adamw.", tensors))
        taken = (row for row in read_record(self.record.path) if "loss" in row and not row.get("skipped"))
        self.losses.extend(row["loss"] for row in taken)
        if "restarts" in state:
            self._remember(state["restarts"])
        best = below("best.", tensors)
        if best:
            self.best = self.trainable.restored(best, self.provenance)
            self.best_score, self.best_label_loss = state["best_metrics"]["score"], state.get("best_label_loss")
        if state.get("has_begun"):
            self.beginning, self.has_begun = None, True
        self.status, self.stale = state["status"], state["stale"]
        self.best_step, self.best_metrics = state["best_step"], state["best_metrics"]

    def _remember(self, restarts: Mapping[str, Any]) -> None:
        training = {**self.provenance.training, "restarts": dict(restarts)}
        self.provenance = dataclasses.replace(self.provenance, training=training)
