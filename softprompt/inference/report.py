"""What an evaluation tells: metrics with their intervals, classes, and each answer beside what is right."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..data import Examples
from ..metrics import headline_score, majority, score
from ..tasks import Task
from .answers import Answers
from .calibration import negative_log_likelihood
from .class_scores import ClassScores
from .intervals import Interval, intervals


@dataclass(frozen=True)
class Report:
    """Metrics over n rows, how many answers were invalid, and the answers themselves.

    Args:
        metrics: by name, and `score`, the mean of the headline ones.
        n: rows.
        invalid: answers that are no label word or no number.
        predictions: class ids (-1 where it is no label word), numbers (NaN where it is none) or texts.
        gold: class ids, numbers or lists of accepted texts; empty where only metrics are known.
        task: what was asked.
        of: rows of the split, where n of them were drawn.
        calibration_error: of the labels' probabilities, where labels were scored.
        label_loss: mean of -log p(right label) in nats, over the labels of the task, where labels were scored.
        answered: gives the rows of `rows` one by one: with many labels they take many times what they are made of.
    """

    metrics: dict[str, float]
    n: int
    invalid: int
    predictions: list[Any]
    gold: list[Any] = field(default_factory=list)
    task: Task | None = None
    of: int | None = None
    calibration_error: float | None = None
    label_loss: float | None = None
    answered: Callable[[], Iterator[dict[str, Any]]] = field(default=lambda: iter(()), compare=False, repr=False)

    @classmethod
    def from_answers(cls, task: Task, examples: Examples, answers: Answers) -> "Report":
        """The task's metrics, and `score`, the mean of its headline metrics."""
        metrics = score(task.metrics, answers.values, examples.gold)
        metrics["score"] = headline_score(metrics, task.scores)
        classes = [gold for gold in examples.gold if isinstance(gold, int)]
        loss = None if answers.scores is None or not classes else negative_log_likelihood(answers.scores, classes)
        return cls(metrics, len(examples), answers.invalid, answers.values, list(examples.gold), task, label_loss=loss)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Each row with its id, text, right answer and prediction, in the order of the split."""
        return list(self.answered())

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % interval of each metric: where it would lie over many more rows like these."""
        if self.task is None or not self.gold:
            return {}
        return intervals(self.task.metrics, self.task.scores, self.predictions, self.gold)

    @cached_property
    def classes(self) -> ClassScores | None:
        """The confusion matrix, and precision, recall and F1 of each class; None where answers are no classes."""
        if self.task is None or self.task.answer != "label" or not self.gold:
            return None
        return ClassScores.of(self.task.labels, self.predictions, self.gold)

    def to_json(self) -> dict[str, Any]:
        """The line that `softprompt evaluate --json` prints; the rows are in `predictions.jsonl`."""
        values: dict[str, Any] = {"metrics": self.metrics, "n": self.n, "invalid": self.invalid}
        if self.of is not None:
            values["of"] = self.of
        if self.intervals:
            values["intervals"] = {name: list(ends) for name, ends in self.intervals.items()}
        if self.calibration_error is not None:
            values["calibration_error"] = self.calibration_error
        if self.classes is not None:
            values["classes"] = self.classes.by_class()
            values["confusion"] = {
                "labels": list(self.classes.labels),
                "counts": self.classes.confusion,
                "invalid": self.classes.invalid,
            }
        return values

    def predictions_jsonl(self) -> bytes:
        """One JSON line a row: id, text, gold, prediction, and the labels' probabilities where they were scored."""
        with io.BytesIO() as lines:
            lines.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in self.answered())
            return lines.getvalue()


def row_answers(
    task: Task,
    report: Report,
    ids: Sequence[Any],
    texts: Sequence[str],
    words: Sequence[str],
    chances: Float[Tensor, "n c"] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield each row with its id, its text, what is right and what was answered.

    Args:
        task: what was asked.
        report: its gold values and predictions.
        ids: one a row.
        texts: the rows as the model read them, before they were cut.
        words: the answers as text; they stand where an answer is no label word or no number.
        chances: probabilities of the label words, where they were scored.
    """
    for i, (gold, predicted) in enumerate(zip(report.gold, report.predictions, strict=True)):
        yield {
            "id": ids[i],
            "text": texts[i],
            "gold": task.labels[gold] if task.answer == "label" else gold,
            "prediction": words[i] if task.answer != "number" or predicted != predicted else predicted,
            **({} if chances is None else {"scores": dict(zip(task.labels, chances[i].tolist(), strict=True))}),
        }


def majority_score(task: Task, gold: Sequence[int]) -> float:
    """The score of always answering the most frequent class."""
    most, _ = majority(gold)
    return headline_score(score(task.metrics, [most] * len(gold), list(gold)), task.scores)
