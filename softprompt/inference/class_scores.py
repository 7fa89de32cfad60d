"""Details behind the score of a classification: confused classes, the scores of each class, and calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

# Number of bins of equal width between 0 and 1 (Guo et al., 2017, arXiv:1706.04599, use 15).
BINS = 15


@final
@dataclass(frozen=True)
class ClassScores:
    """How each class is answered.

    Args:
        labels: label words by class id.
        confusion: rows of the data by their class and by the class that was answered.
        invalid: rows of each class whose answer was no label word.
        precision: of the rows answered so, the share that are so; 0 where none is.
        recall: of the rows that are so, the share answered so; 0 where none is.
        f1: the harmonic mean of both.
        rows: of each class.
    """

    labels: tuple[str, ...]
    confusion: list[list[int]]
    invalid: list[int]
    precision: list[float]
    recall: list[float]
    f1: list[float]
    rows: list[int]

    @classmethod
    def of(cls, labels: Sequence[str], predictions: Sequence[int], gold: Sequence[int]) -> "ClassScores":
        """Of class ids; -1 is an answer that is no label word."""
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

        classes: Any = range(len(labels))
        # Answers that are no label form one more class, so that scikit-learn drops no row.
        answered = [len(labels) if p < 0 else p for p in predictions]
        table = confusion_matrix(gold, answered, labels=[*classes, len(labels)])
        zero: Any = 0.0
        scores = precision_recall_fscore_support(gold, answered, labels=list(classes), zero_division=zero)
        precision, recall, f1, rows = ([*map(float, values)] for values in scores)  # pyright: ignore[reportArgumentType]  (stubs)
        return cls(
            labels=tuple(labels),
            confusion=table[:-1, :-1].tolist(),
            invalid=table[:-1, -1].tolist(),
            precision=precision,
            recall=recall,
            f1=f1,
            rows=[*map(int, rows)],
        )

    def by_class(self) -> list[dict[str, Any]]:
        """One record for each class: label, rows, precision, recall, f1."""
        columns = {"rows": self.rows, "precision": self.precision, "recall": self.recall, "f1": self.f1}
        return [
            {"label": label, **{name: values[i] for name, values in columns.items()}}
            for i, label in enumerate(self.labels)
        ]


def calibration_error(
    probabilities: Sequence[Sequence[float]] | np.ndarray, gold: Sequence[int], bins: int = BINS
) -> float:
    """Expected calibration error: sum over bins of the share of rows x |accuracy - mean confidence|.

    The confidence of a row is the largest probability of a label (Guo et al., 2017, arXiv:1706.04599, equation 3).

    Args:
        probabilities: of each label, [n, c].
        gold: class ids.
        bins: of equal width between 0 and 1.
    """
    values = np.asarray(probabilities)
    right = values.argmax(1) == np.asarray(gold)
    means, accuracy, counts = calibration_bins(values.max(1).astype(float), right, bins)
    return float((counts * np.abs(accuracy - means)).sum() / counts.sum())


def calibration_bins(
    confidence: np.ndarray, right: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, accuracy and number of rows of each bin that holds rows.

    Args:
        confidence: of each row, the largest probability of a label.
        right: whether that label is the row's.
        bins: of equal width between 0 and 1.
    """
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(places, minlength=bins)
    used = counts > 0
    sums = (np.bincount(places, weights=values, minlength=bins)[used] for values in (confidence, right))
    means, accuracy = (of_bins / counts[used] for of_bins in sums)
    return means, accuracy, counts[used]
