"""Rows of a set as one list for each column. Importing a dataframe library would take longer than reading."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a set, in order.

    Args:
        columns: name -> one value a row; all of one length.
        numbers: where each row stands in its file, from 1, malformed rows counted: 17, or "b.csv#17" where a split has
            several files; empty where rows have no file.
    """

    columns: Mapping[str, Sequence[Any]]
    numbers: Sequence[int | str] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[index] for name, values in self.columns.items()}

    def select(self, indices: Iterable[int]) -> "Rows":
        """These rows, in this order."""
        chosen = list(indices)
        numbers = [self.numbers[i] for i in chosen] if self.numbers else ()
        return Rows({name: [values[i] for i in chosen] for name, values in self.columns.items()}, numbers)

    def to_list(self) -> list[dict[str, Any]]:
        """Each row as a dict."""
        return list(self)


@contextmanager
def uncollected() -> Iterator[None]:
    """Switch off the search for cyclic garbage during the `with` block.

    Python looks through all objects each time that many were made, and rows are hundreds of thousands without a cycle:
    half of the time that SST-2 takes to its first step.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
