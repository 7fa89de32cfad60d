"""How the records of a file become rows: pure functions by name."""

from collections.abc import Callable, Iterable, Iterator

from ._mrqa import questions
from ._records import Record

LAYOUTS: dict[str, Callable[[Iterable[Record]], Iterator[Record]]] = {"": iter, "mrqa": questions}
