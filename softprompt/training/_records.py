"""Append-only records of a run: deterministic values in metrics.jsonl, times in timing.jsonl, a checksum a line.

What one prompt writes depends on its settings and seeds alone: a killed and resumed run leaves the same bytes.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from ..documents import is_sealed_line, line_bytes, line_values, whole_lines
from ..errors import DamagedFile, StorageFailure

TEXTS = ("dropped", "split")


@final
class Record:
    """One JSON line a call, which a checkpoint can mark and a resumed run cut back to.

    Args:
        path: the file; made if absent.
        keep: bytes to keep of what is there (the mark of the checkpoint that a run resumes from).

    Raises:
        DamagedFile: the file is shorter than the checkpoint says.
        StorageFailure: the file cannot be written.
    """

    def __init__(self, path: Path, keep: int = 0):
        self.path = path
        with self._writable():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: a row can be read as soon as it is written, and nothing is left to write at the end.
            self.file = path.open("ab", buffering=0)
        size = self.file.tell()
        if size < keep:
            self.close()
            raise DamagedFile(too_short(path, size, keep))
        with self._writable():
            self.file.truncate(keep)
            self.file.seek(keep)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row, for other processes to read at once; it outlasts a loss of power after the next `mark`."""
        left = line_bytes(row)
        with self._writable():
            while left:
                left = left[self.file.write(left) :]

    def mark(self) -> int:
        """Put everything on disk; how many bytes the file then has."""
        with self._writable():
            os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        """Close the file; a second call does nothing. What has been marked is safe, so a failure here means nothing."""
        with contextlib.suppress(OSError):
            self.file.close()

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageFailure(
                f"cannot write {self.path}: {error.strerror}; free space, then --resume, or start anew where no step "
                "was trained"
            ) from error


def read_record(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a record; none if the file is absent.

    A torn last line (a killed run) is left out, and so is a line that is no row: `damaged_lines` tells which.
    """
    return (row for _, row in _rows(path) if row is not None)


def damaged_lines(path: Path) -> list[int]:
    """Numbers, from 1, of the lines that are no rows."""
    return [number for number, row in _rows(path) if row is None]


def checked_record(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a record, and one sentence for each kind of fault: damaged lines, a torn end, no finite loss."""
    if not path.exists():
        return [], ["its record is missing"]
    content = path.read_bytes()
    numbered = list(_numbered(content))
    rows = [row for _, row in numbered if row is not None]
    damaged = [str(number) for number, row in numbered if row is None]
    unlimited = sum(not math.isfinite(row.get("loss", 0.0)) for row in rows)
    faults = {
        f"damaged lines of its record are left out: {', '.join(damaged[:5])}{' ...' if damaged[5:] else ''}": bool(
            damaged
        ),
        "the last line of its record is torn and left out": not content.endswith(b"\n") and bool(content),
        f"losses that are not finite are not drawn: {unlimited}": unlimited > 0,
    }
    return rows, [sentence for sentence, is_so in faults.items() if is_so]


def recorded_steps(path: Path) -> int:
    """Optimiser steps that a record of metrics holds: the last one with a loss."""
    return max((row["step"] for row in read_record(path) if "loss" in row), default=0)


def too_short(path: Path, size: int, needed: int) -> str:
    """What to say of a record that holds less than its checkpoint needs."""
    return (
        f"{path} has {size} bytes, its checkpoint needs {needed}; the file was cut or replaced: restore it from a "
        "copy, or start a new run"
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Each whole line's number, and its row or None."""
    if path.exists():
        yield from _numbered(path.read_bytes())


def _numbered(content: bytes) -> Iterator[tuple[int, dict[str, Any] | None]]:
    yield from ((number, None if line is None else _row(line)) for number, line in enumerate(whole_lines(content), 1))


def _row(line: bytes) -> dict[str, Any] | None:
    """The row that a line holds; None where it is not as a record writes it."""
    row = line_values(line)
    if row is None or not isinstance(row.get("step"), int) or not _is_number(row["step"]):
        return None
    # A checksum whose name is damaged would pass for a value of an earlier version, which had no texts but these.
    # The types are looked at first, because nearly all lines have numbers alone.
    has_texts = str in map(type, row.values()) and not is_sealed_line(line)
    if has_texts and any(isinstance(row[name], str) for name in row.keys() - set(TEXTS)):
        return None
    numbers = [row[name] for name in ("loss", "seconds", "score") if name in row]
    if not all(map(_is_number, numbers)):
        return None
    return row if "dropped" in row or numbers else None


def _is_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold, NaN and infinity included."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**1023)
