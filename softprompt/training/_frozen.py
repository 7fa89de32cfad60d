"""The frozen model without training, on rows of the test split: the prompts of a run are compared with it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone
from ..data import Splits, limited_places
from ..documents import SEALED
from ..errors import DamagedFile
from ..inference.frozen import Baseline, baselines, over, reference_among, score_of
from ..inference.intervals import Interval, intervals
from ..inference.kept_baselines import kept_baselines, way_to_answer
from ..inference.report import Report
from ..run_layout import COMPARISON, FROZEN
from ..settings import TrainSettings
from ..store import read_sealed, sealed_bytes, write_file
from ..tasks import Task

REPAIR = "restore it from a copy, or delete it"
# Most test rows of the comparison: it takes about as long as scoring seventeen prompts on these rows.
MOST_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A prompt on the rows of the comparison.

    Args:
        name: of the prompt.
        score: the task's.
        interval: its 95 % interval.
        difference: to the reference.
        difference_interval: 95 %, of pairs of rows.
        predictions: class ids.
    """

    name: str
    score: float
    interval: Interval | None
    difference: float
    difference_interval: Interval
    predictions: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Baselines and prompts on the same rows.

    Args:
        rows: how many.
        of: test rows in all.
        reference: name of the baseline that prompts are compared with.
        baselines: without training.
        prompts: trained.
    """

    rows: int
    of: int
    reference: str
    baselines: Sequence[Baseline]
    prompts: Sequence[Trained]

    @property
    def best(self) -> Baseline:
        """The reference itself."""
        return next(line for line in self.baselines if line.name == self.reference)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Comparison":
        """The comparison that `to_json` wrote."""
        prompts = [Trained(**{**line, **_intervals(line)}) for line in values["prompts"]]
        baselines = [Baseline.from_json(line) for line in values["baselines"]]
        return cls(**{**values, "baselines": baselines, "prompts": prompts})


def _intervals(line: Mapping[str, Any]) -> dict[str, Interval | None]:
    """The intervals of a prompt as pairs: JSON has them as lists."""
    names = ("interval", "difference_interval")
    return {name: None if line[name] is None else (line[name][0], line[name][1]) for name in names}


def read_comparison(run: Path) -> Comparison | None:
    """The comparison of a run with what was not trained; None where the run was not compared, or not yet.

    Raises:
        DamagedFile: the file cannot be read.
    """
    path = run / COMPARISON
    if not path.is_file():
        return None
    try:
        values = read_sealed(path, earlier_names=["prompts"], repair=REPAIR)
        values.pop("format", None)
        return Comparison.from_json(values)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise DamagedFile(f"{path} is not as it was written; {REPAIR}") from error


def compare(
    task: Task,
    splits: Splits,
    backbone: AbstractBackbone,
    settings: TrainSettings,
    reports: Mapping[str, Report],
    folder: Path,
) -> Comparison | None:
    """The prompts of a run beside what was not trained; None where the task has no labels.

    Where the answers of prompts are calibrated, those of the frozen model are so on the same rows. The baselines are
    computed once, and they and the comparison are kept in the run's folder.

    Args:
        task: as the prompts were trained on it.
        splits: its rows; those of validation are the ones that chose the prompts.
        backbone: frozen.
        settings: of the run: what was not trained answers in the same way as the prompts.
        reports: how each prompt answers the test rows.
        folder: of the run.
    """
    if task.answer != "label" or not reports:
        return None
    places = limited_places(len(splits.test), MOST_ROWS)
    validation = splits.validation if settings.calibrate else None
    way = way_to_answer(settings, task, backbone)
    lines = kept_baselines(
        folder / FROZEN,
        {"places": places, **way, **({} if validation is None else {"calibrated_on": len(validation)})},
        lambda: baselines(
            backbone, task, splits.test.select(places), splits.train, settings=settings, validation=validation
        ),
    )
    best = lines[reference_among([line.name for line in lines])]
    prompts = [_trained(task, name, report, places, best) for name, report in reports.items()]
    comparison = Comparison(
        rows=len(places), of=len(splits.test), reference=best.name, baselines=lines, prompts=prompts
    )
    write_file(
        folder / COMPARISON,
        sealed_bytes({"format": SEALED, **comparison.to_json()}),
        what="the comparison",
        replace=True,
    )
    return comparison


def _trained(task: Task, name: str, report: Report, places: Sequence[int], best: Baseline) -> Trained:
    predictions: list[Any] = [report.predictions[place] for place in places]
    right: list[Any] = [report.gold[place] for place in places]
    difference, ends = over(task, predictions, best, right)
    return Trained(
        name=name,
        score=score_of(task, predictions, right),
        interval=intervals(task.metrics, task.scores, predictions, right).get("score"),
        difference=difference,
        difference_interval=ends,
        predictions=predictions,
    )
