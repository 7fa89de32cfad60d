"""A perturbation that leaves the input unchanged: only the dropout of the frozen model is drawn again (R-Drop)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from ..prompts.batch import TextBatch
from ._base import AbstractPerturbation, PerturbationContext


@final
@dataclass(frozen=True, kw_only=True)
class DropoutPerturbation(AbstractPerturbation):
    """The same rows with other units of the frozen model dropped (R-Drop, Liang et al., 2021, arXiv:2106.14448)."""

    is_dropout: ClassVar[bool] = True

    @property
    def is_nothing(self) -> bool:
        """Always False: training checks at its start whether the model has dropout."""
        return False

    def batches(
        self, context: PerturbationContext, by_owner: Mapping[int, "DropoutPerturbation"]
    ) -> Iterator[TextBatch]:
        """Yield the rows as they are."""
        yield context.batch
