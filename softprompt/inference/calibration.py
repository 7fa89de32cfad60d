"""Calibration of label scores: a temperature and a bias of each class, fitted on rows that were not trained on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..documents import check_shape
from .class_scores import calibration_error

# A few rows that are all answered right would ask for a temperature of 0, and a class without errors for a bias without
# end.
LOWEST, HIGHEST, LARGEST_BIAS = 0.05, 100.0, 10.0
# Rows whose probabilities are computed at a time.
PART = 2**14


@final
@dataclass(frozen=True)
class Calibration:
    """The probability of a label, softmax(scores / temperature + bias) (Guo et al., 2017, arXiv:1706.04599).

    The temperature alone leaves every answer as it is. The bias changes answers, where one label is answered too often.

    Args:
        temperature: divides the scores.
        bias: of each class, in nats; its mean is 0.
        labels: the label words that it was fitted for.
    """

    temperature: float
    bias: tuple[float, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse numbers that would answer nonsense.

        Raises:
            ValueError: a number is not finite, the temperature is not positive, or the classes differ in number.
        """
        if not all(map(math.isfinite, (self.temperature, *self.bias))) or self.temperature <= 0:
            raise ValueError("a calibration needs a positive temperature and finite numbers")
        if len(self.bias) != len(self.labels):
            raise ValueError(f"a calibration has {len(self.bias)} biases for {len(self.labels)} labels")

    @classmethod
    def fit(cls, scores: Float[Tensor, "n c"], gold: Sequence[int], labels: Sequence[str]) -> "Calibration":
        """The temperature and biases of the smallest negative log-likelihood, which is convex, in float64.

        A class that no row has keeps a bias like the others' mean, because nothing is known of it. It is left out of
        the fit: the others could lower its probability there by rising together.

        Args:
            scores: label scores in nats, of rows that were not trained on.
            gold: their class ids.
            labels: the label words by class id.
        """
        from scipy.optimize import minimize

        seen, right = np.unique(np.asarray(gold), return_inverse=True)
        rows = scores.double().numpy()[:, seen]

        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            return likelihood(rows, right, x)

        bounds = [(1 / HIGHEST, 1 / LOWEST), *[(-LARGEST_BIAS, LARGEST_BIAS)] * len(seen)]
        start = np.concatenate([[1.0], np.zeros(len(seen))])
        minimum: Any = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12})
        bias = np.zeros(scores.shape[1])
        bias[seen] = minimum.x[1:] - minimum.x[1:].mean()
        return cls(float(1 / minimum.x[0]), tuple(map(float, bias)), tuple(labels))

    def apply(self, scores: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Return the log-probability of each label."""
        bias = torch.tensor(self.bias, dtype=torch.float64)
        return (scores.double() / self.temperature + bias).log_softmax(-1).to(scores.dtype)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"temperature": self.temperature, "bias": list(self.bias), "labels": list(self.labels)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Calibration":
        """The calibration that `to_json` wrote.

        Raises:
            UnknownName: a field that it does not have.
            BadInput: a field is missing or of another kind.
            ValueError: numbers that would answer nonsense.
        """
        check_shape(cls, values)
        return cls(float(values["temperature"]), tuple(map(float, values["bias"])), tuple(values["labels"]))


def likelihood(rows: np.ndarray, gold: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean negative log-likelihood at x = (1 / temperature, biases), and its gradient."""
    logits = rows * x[0] + x[1:]
    logits = logits - logits.max(1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    difference = np.exp(log_probabilities)
    value = -log_probabilities[np.arange(len(gold)), gold].mean()
    difference[np.arange(len(gold)), gold] -= 1
    difference /= len(gold)
    return float(value), np.concatenate([[(difference * rows).sum()], difference.sum(0)])


def negative_log_likelihood(scores: Float[Tensor, "n c"], gold: Sequence[int]) -> float:
    """Mean of -log p(right label), in nats."""
    right = torch.tensor(gold)[:, None]
    # In parts: in float64 all rows would take four times what their scores take.
    parts = zip(scores.split(PART), right.split(PART), strict=True)
    return -float(torch.cat([part.double().log_softmax(-1).gather(1, of_part) for part, of_part in parts]).mean())


def quality(scores: Float[Tensor, "n c"], gold: Sequence[int]) -> dict[str, float]:
    """How honest scores are: the negative log-likelihood in nats and the expected calibration error."""
    chances = scores.double().softmax(-1).numpy()
    return {"nll": negative_log_likelihood(scores, gold), "ece": calibration_error(chances, gold)}
