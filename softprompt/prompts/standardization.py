"""Standardised numbers: a linear head of one output trains on them, and the stored head undoes the scaling."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadInput
from .prompt import LinearHead

# A stored head is float32, whose relative precision is about 1e-7: a narrower spread would be lost in rounding.
NARROWEST = 1e-5
LARGEST = 1e30


@final
@dataclass(frozen=True)
class Standardization:
    """The linear map y = mean + deviation x z between target numbers y and z with mean 0 and standard deviation 1.

    Args:
        mean: mean of the target numbers.
        deviation: standard deviation of the target numbers, above 0.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Standardization":
        """Take the mean and the population standard deviation of the training rows' numbers.

        Raises:
            BadInput: the numbers are all equal, or float32 cannot hold them or tell them apart.
        """
        if max(map(abs, numbers)) > LARGEST:
            raise BadInput(f"the training numbers go up to {max(numbers, key=abs):g}; give them in a larger unit")
        mean, deviation = fmean(numbers), pstdev(numbers)
        if len(set(numbers)) < 2 or deviation == 0:
            raise BadInput(f"all {len(numbers)} training numbers are {numbers[0]:g}, so there is nothing to learn")
        if deviation < NARROWEST * abs(mean):
            raise BadInput(
                f"the training numbers lie around {mean:g} with a deviation of only {deviation:g}, which float32 "
                f"cannot tell apart; subtract {mean:.6g} from each"
            )
        return cls(mean, deviation)

    def standardized(self, numbers: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return z = (y - mean) / deviation, computed in float64."""
        return ((numbers.double() - self.mean) / self.deviation).to(numbers.dtype)

    def unfolded(self, head: LinearHead) -> LinearHead:
        """Return the head that answers y where `head` answers z: deviation x W, and deviation x b + mean."""
        weight, bias = head.weight.double() * self.deviation, head.bias.double() * self.deviation + self.mean
        return LinearHead(weight.to(head.weight.dtype), bias.to(head.bias.dtype))

    def to_json(self) -> dict[str, float]:
        """Return both values under the names that a stored prompt uses."""
        return {"number_mean": self.mean, "number_deviation": self.deviation}


def standardized(targets: Tensor, owner: Tensor, scales: Sequence[Standardization | None]) -> Tensor:
    """Standardise the targets [b, 1] of each prompt by the prompt's scale. Class and token ids stay as they are."""
    if not targets.is_floating_point():
        return targets
    return torch.stack(
        [
            target if (scale := scales[place]) is None else scale.standardized(target)
            for target, place in zip(targets, owner.tolist(), strict=True)
        ]
    )
