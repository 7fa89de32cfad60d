"""How the best prompt of each member scores in the end, and what its scores are calibrated by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from ..data import Examples
from ..inference.answers import Answers
from ..inference.calibration import Calibration, quality
from ..inference.report import Report
from ..tasks import Task


@final
@dataclass(frozen=True)
class Last:
    """The end of one member.

    Args:
        reports: scores by split.
        calibration: of its label scores; None where none was asked for.
        calibrated: temperature, bias, and the quality of the scores before and after, by split; None likewise.
    """

    reports: Mapping[str, Report]
    calibration: Calibration | None = None
    calibrated: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls, task: Task, splits: Mapping[str, tuple[Examples, Answers]], calibrate: tuple[Examples, Answers] | None
    ) -> "Last":
        """From the answers to each split.

        Args:
            task: the task.
            splits: the rows and the answers to them.
            calibrate: the rows on which a calibration is fitted, with their answers; None fits none.
        """
        if calibrate is None:
            return cls({split: Report.from_answers(task, *both) for split, both in splits.items()})
        examples, answers = calibrate
        assert answers.scores is not None
        calibration = Calibration.fit(answers.scores, _classes(examples), task.labels)
        after = {split: given_answers.calibrated(calibration, task) for split, (_, given_answers) in splits.items()}
        compared = {**splits, "validation": calibrate}
        return cls(
            {split: Report.from_answers(task, examples, after[split]) for split, (examples, _) in splits.items()},
            calibration,
            {**calibration.to_json()}
            | {split: _before_and_after(task, calibration, *both) for split, both in compared.items()},
        )


def _before_and_after(task: Task, calibration: Calibration, examples: Examples, answers: Answers) -> dict[str, Any]:
    pairs = {"before": answers, "after": answers.calibrated(calibration, task)}
    return {
        when: {
            "score": Report.from_answers(task, examples, given).metrics["score"],
            **quality(given.scores, _classes(examples)),
        }
        for when, given in pairs.items()
        if given.scores is not None
    }


def _classes(examples: Examples) -> list[int]:
    return [int(gold) for gold in examples.gold if not isinstance(gold, list)]
