"""What a search ends with: the winner on rows that nothing was chosen by, beside what it has to be compared with."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..documents import check_shape, in_file
from ..errors import BadInput
from ..interop.stored import load
from ..prompts.prompt import SoftPrompt
from ..prompts.tuned import Stored, TunedWeights
from ..run_layout import PROMPT
from ..store import load_tuned
from ._kept import stored_fields
from ._measure import Measure

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A score on the report rows.

    Args:
        name: "winner", "default", "lora", "instruction", "frozen" or "majority".
        score: mean over seeds.
        low: lower end of its 95 % interval; None where rows tell none.
        high: upper end.
        deviation: standard deviation over seeds; None for what was not trained.
        worst: score of the worst seed; None likewise.
        each: of every seed.
    """

    name: str
    score: float
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    worst: float | None = None
    each: Sequence[float] = ()

    @classmethod
    def of(cls, name: str, measure: Measure) -> "Line":
        """The line of what was trained with several seeds."""
        return cls(
            name=name, score=measure.mean, low=measure.low, high=measure.high, deviation=measure.deviation,
            worst=min(measure.each), each=tuple(measure.each),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Lead:
    """How far settings are ahead of the default, paired by seed and row.

    Args:
        difference: of the mean scores.
        error: standard error of the difference.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided; None where nothing varies.
        is_significant: whether the interval leaves out 0.
    """

    difference: float
    error: float
    low: float
    high: float
    p: float | None
    is_significant: bool

    @classmethod
    def of(cls, measure: Measure) -> "Lead":
        """The lead that was measured."""
        return cls(
            difference=measure.mean, error=measure.error, low=measure.low, high=measure.high, p=measure.p,
            is_significant=measure.is_significant,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a search ended.

    Args:
        folder: of the search.
        task: name of the task.
        model: name of the frozen model.
        settings: of the winner, those in which it differs from `train`; its template apart.
        template: of the winner: the name of a style, or a template.
        is_default: whether no candidate led the default convincingly, so that the default won.
        lines: winner, default and what was not trained, on the same report rows; only what has a score.
        lead: of the winner over the default on the report rows; None where they are the same, or no seed has a score
            with both.
        challengers: the candidates that were compared with the default, with their lead on the choosing rows.
        best: folder of the stored prompt: the winner's best seed on the choosing rows.
        trials: how many trials ended in each way.
        cost: "seconds", and "prompt_steps", optimiser steps of all prompts.
        rows: "train", "choosing", "report", and "folds".
    """

    folder: Path
    task: str
    model: str
    settings: Mapping[str, Any]
    template: str
    is_default: bool
    lines: Sequence[Line]
    lead: Lead | None
    challengers: Sequence[Mapping[str, Any]]
    best: Path
    trials: Mapping[str, int]
    cost: Mapping[str, int | float]
    rows: Mapping[str, int]

    @property
    def score(self) -> float:
        """The winner's mean score on the report rows."""
        return self.lines[0].score

    def line(self, name: str) -> Line:
        """The line of this name; of the default where the default won, the winner's."""
        return next(line for line in self.lines if line.name == name)

    def stored(self) -> Stored:
        """What is stored: of the winner's seeds the prompt, or the weights, best on the choosing rows."""
        return load(self.best)

    def prompt(self) -> SoftPrompt:
        """The stored prompt: of the winner's seeds the one that is best on the choosing rows."""
        return SoftPrompt.load(self.best / PROMPT)

    def tuned(self) -> TunedWeights:
        """The stored weights, where the winner's method trains weights."""
        return load_tuned(self.best)

    def to_json(self) -> dict[str, Any]:
        """Plain values; paths from the folder of the search."""
        best = self.best.relative_to(self.folder)
        return {**dataclasses.asdict(self), "folder": str(self.folder), "best": str(best)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], folder: Path) -> "Tuning":
        """The report that `to_json` wrote into this folder.

        Raises:
            BadInput: values that it does not write.
        """
        lead, objects = values.get("lead"), Mapping[str, Any]
        check_shape(
            cls, values, folder=str, best=str, lines=Sequence[objects], lead=objects | None, rows=Mapping[str, int]
        )
        for line in values["lines"]:
            check_shape(Line, line)
        if lead is not None:
            check_shape(Lead, lead, **dict.fromkeys(("difference", "error", "low", "high"), float | None))
        if not values["lines"] or PurePath(values["best"]).is_absolute() or ".." in PurePath(values["best"]).parts:
            raise BadInput("the report of the search has no scores, or names a prompt elsewhere; delete it")
        return cls(
            **{
                **values,
                "folder": folder,
                "best": folder / values["best"],
                "lines": tuple(Line(**{**line, "each": tuple(line.get("each", ()))}) for line in values["lines"]),
                "lead": None if lead is None else Lead(**lead),
            }
        )


def stored_report(folder: Path) -> Tuning:
    """The report of a search that has ended.

    Raises:
        BadInput: it cannot be read, or holds what is no report.
        DamagedFile: it is not as it was written.
    """
    path = folder / REPORT
    values = stored_fields(path, ["lines"])
    with in_file(path):
        return Tuning.from_json(values, folder)
