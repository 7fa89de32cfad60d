"""The paired comparison of all studies: differences over the tasks and seeds that both sides have, and their mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Self

from softprompt.study.statistics import bootstrap

# (task, seed) of a run.
Cell = tuple[str, int]


def differences(first: Mapping[Cell, float | None], second: Mapping[Cell, float | None]) -> list[float]:
    """The first minus the second where both have a value, in the order of the first."""
    pairs = [(value, second.get(cell)) for cell, value in first.items()]
    return [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]


@dataclass(frozen=True)
class Mean:
    """A mean with the 95 % bootstrap interval of it; None where there are too few values.

    Args:
        n: number of values.
        mean: of them.
        low: lower end of the interval.
        high: upper end.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The mean of these values."""
        low, high = bootstrap(values) or (None, None)
        return cls(len(values), fmean(values) if values else None, low, high)
