"""Numbers in units of their own spread: what a head of one output is trained on, and the way back."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadInput
from .prompt import LinearHead

# A stored head is float32: it tells numbers apart to a ten-millionth of their size.
NARROWEST = 1e-5
LARGEST = 1e30


@final
@dataclass(frozen=True)
class Standardization:
    """y = mean + deviation x z: numbers y of some rows, and z with mean 0 and standard deviation 1.

    Args:
        mean: of the numbers.
        deviation: their standard deviation, above 0.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Standardization":
        """The mean and the standard deviation (over all, not the sample's) of the training rows' numbers.

        Raises:
            BadInput: numbers that are all the same, or that float32 cannot tell apart or hold.
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
        """The numbers z = (y - mean) / deviation, computed in float64."""
        return ((numbers.double() - self.mean) / self.deviation).to(numbers.dtype)

    def unfolded(self, head: LinearHead) -> LinearHead:
        """The head that answers y where `head` answers z: deviation x W, and deviation x b + mean."""
        weight, bias = head.weight.double() * self.deviation, head.bias.double() * self.deviation + self.mean
        return LinearHead(weight.to(head.weight.dtype), bias.to(head.bias.dtype))

    def to_json(self) -> dict[str, float]:
        """The names under which a prompt remembers both."""
        return {"number_mean": self.mean, "number_deviation": self.deviation}


def standardized(targets: Tensor, owner: Tensor, scales: Sequence[Standardization | None]) -> Tensor:
    """Targets [b, 1], those of each owner by its own scale; class and token ids stay as they are."""
    if not targets.is_floating_point():
        return targets
    return torch.stack(
        [
            target if (scale := scales[place]) is None else scale.standardized(target)
            for target, place in zip(targets, owner.tolist(), strict=True)
        ]
    )
