"""No change of the input at all: the frozen model's own dropout is drawn anew, as in R-Drop."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from ..prompts.batch import TextBatch
from ._base import AbstractPerturbation, PerturbationContext


@final
@dataclass(frozen=True, kw_only=True)
class DropoutPerturbation(AbstractPerturbation):
    """The same rows, with other units of the frozen model dropped (R-Drop, Liang et al., 2021, arXiv:2106.14448)."""

    is_dropout: ClassVar[bool] = True

    @property
    def is_nothing(self) -> bool:
        """Never: whether the model has dropout is asked when training starts."""
        return False

    def batches(self, context: PerturbationContext, own: Mapping[int, "DropoutPerturbation"]) -> Iterator[TextBatch]:
        """The rows as they are."""
        yield context.batch
