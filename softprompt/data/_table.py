"""Rows of a set as lists, one a column. No dataframe: importing one takes longer than reading the rows of most tasks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a set, in order.

    Args:
        columns: name -> one value a row; all of one length.
    """

    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[index] for name, values in self.columns.items()}

    def select(self, indices: Iterable[int]) -> "Rows":
        """These rows, in this order."""
        chosen = list(indices)
        return Rows({name: [values[i] for i in chosen] for name, values in self.columns.items()})

    def to_list(self) -> list[dict[str, Any]]:
        """Each row as a dict."""
        return list(self)
