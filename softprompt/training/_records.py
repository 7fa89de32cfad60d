"""Append-only records of a run: deterministic values in metrics.jsonl, times in timing.jsonl.

What one lane writes depends on its settings and seeds alone: a killed and resumed run leaves the same bytes.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from ..errors import DamagedFile, StorageFailure


@final
class Record:
    """One JSON line a call, which a checkpoint can mark and a resumed run cut back to.

    Args:
        path: the file; made if absent.
        keep: bytes to keep of what is there (the mark of the checkpoint that a run resumes from).

    Raises:
        DamagedFile: the file is shorter than the checkpoint says.
    """

    def __init__(self, path: Path, keep: int = 0):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("ab")
        size = self.file.tell()
        if size < keep:
            raise DamagedFile(f"{path} has {size} bytes, its checkpoint needs {keep}; the file was cut or replaced")
        self.file.truncate(keep)
        self.file.seek(keep)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is on disk after the next `mark`."""
        try:
            self.file.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise StorageFailure(f"cannot write {self.path}: {error.strerror}; free space, then --resume") from error

    def mark(self) -> int:
        """Put everything on disk; how many bytes the file then has."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise StorageFailure(f"cannot write {self.path}: {error.strerror}; free space, then --resume") from error
        return self.file.tell()

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        self.file.close()


def read_record(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a record; none if the file is absent. A torn last line (a killed run) is left out."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)
