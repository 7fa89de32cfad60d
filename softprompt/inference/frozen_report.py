"""What `softprompt frozen` tells: how well a frozen model does a task before any prompt is trained."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from ..backbones import AbstractBackbone, load_backbone
from ..data import limited, load_rows, rows_of, split_rows
from ..settings import ModelSpec
from ..tasks import Task, Wording
from .asked import before_model, worded_for
from .frozen import Baseline, baselines, fitting_rows, refuse_no_labels
from .wordings import ScoredWording, compared


@final
@dataclass(frozen=True, kw_only=True)
class FrozenReport:
    """How well a frozen model answers rows of a task without a trained prompt.

    Args:
        task: name of the task.
        model: name of the model.
        split: whose rows are answered.
        rows: number of them.
        fitted_rows: number of the training rows on which biases are fitted and wordings compared.
        baselines: what was not trained, each on these rows.
        wordings: known ways to put the task, on training rows, the best first; empty where none were compared.
    """

    task: str
    model: str
    split: str
    rows: int
    fitted_rows: int
    baselines: list[Baseline]
    wordings: list[ScoredWording]

    def to_json(self) -> list[dict[str, Any]]:
        """A line of plain values for each baseline, then one for each wording."""
        about = {"task": self.task, "model": self.model, "split": self.split, "rows": self.rows}
        lines = [{**about, **line.to_json()} for line in self.baselines]
        return [*lines, *(way.to_json() for way in self.wordings)]


def measure_frozen(
    task: Task,
    model: "str | Path | ModelSpec | AbstractBackbone",
    *,
    style: str | None = None,
    wording: Wording | None = None,
    split: str = "test",
    limit: int = 200,
    wordings: bool = True,
    max_length: int | None = None,
    data_root: "str | Path | None" = None,
    max_bad_rows: int = 0,
) -> FrozenReport:
    """Score a frozen model on a task without a prompt, with an instruction, and with examples in context.

    Args:
        task: of labels, as it was declared.
        model: the frozen model.
        style: as in `train`; None is the default of the model's kind.
        wording: the user's own words, in the place of the style's.
        split: "validation" or "test", by the split rule of training.
        limit: rows of the split, drawn by seed 0.
        wordings: whether known templates and casings of the label words are compared, on training rows.
        max_length: tokens of a text; None takes the task's.
        data_root: folder with rows; None asks the hub.
        max_bad_rows: malformed rows to drop before it is an error.

    Raises:
        BadInput: a task without labels, or rows that cannot be used.
        UnknownName: no such style or split.
    """
    refuse_no_labels(task)
    # Rows first: their faults are found in seconds, while a model may take minutes to load.
    early = before_model(task, style, wording)
    splits = split_rows(early, load_rows(early, data_root, max_bad_rows))
    rows = limited(rows_of(splits, split), limit)
    backbone = model if isinstance(model, AbstractBackbone) else load_backbone(model)
    chosen = worded_for(task, backbone.kind, style, wording)
    if max_length is not None:
        chosen = replace(chosen, max_length=max_length)
    fitted = fitting_rows(splits.train)
    has_wordings = wordings and backbone.answers != "linear-head" and len(splits.train)
    return FrozenReport(
        task=chosen.name,
        model=backbone.name,
        split=split,
        rows=len(rows),
        fitted_rows=len(fitted),
        baselines=baselines(backbone, chosen, rows, splits.train, calibrate=True),
        wordings=compared(backbone, chosen, fitted) if has_wordings else [],
    )
