"""The files of a task as a run keeps them: to be read from any folder, and after they were moved with the run."""

import dataclasses
import filecmp
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ._source import Source

log = logging.getLogger("softprompt")

Files = Mapping[str, str | tuple[str, ...]]


def stored_in(source: Source, run: Path) -> Source:
    """A source with whole paths, and beside them the paths as seen from the folder of the run that stores it."""
    files = _each(source, lambda split, number, path: os.path.abspath(path))
    beside = _each(source, lambda split, number, path: os.path.relpath(path, run))
    return dataclasses.replace(source, files=files, beside=beside)


def read_from(source: Source, run: Path) -> Source:
    """A stored source with its files where they are now: in their place, or else by the run's folder.

    A run from before whole paths were stored began in one of the folders above its own, and has its files there.
    """
    return dataclasses.replace(source, files=_each(source, lambda *file: _place(source, run, *file)))


def _each(source: Source, move: Callable[[str, int, str], str]) -> Files:
    """The files with each path, by its split and number, exchanged for another; a single one stays single."""
    moved = {s: tuple(move(s, number, path) for number, path in enumerate(source.paths(s))) for s in source.files}
    return {split: paths[0] if len(paths) == 1 else paths for split, paths in moved.items()}


def _place(source: Source, run: Path, split: str, number: int, path: str) -> str:
    """Where a file is; its stored path where it is nowhere."""
    beside = source.beside.get(split, ())
    seen = (beside,) if isinstance(beside, str) else beside
    if seen:
        candidates = [run / seen[number]]
    else:
        candidates = [] if os.path.isabs(path) else [folder / path for folder in run.absolute().parents]
    other = next((candidate for candidate in candidates if candidate.is_file()), None)
    if other is None:
        return path
    if not Path(path).is_file():
        return os.path.normpath(other)
    if seen and not filecmp.cmp(path, other, shallow=False):
        log.warning(
            "%s was trained on %s, which is read; %s holds other rows; to score those, name them with --data",
            run, path, os.path.normpath(other),
        )  # fmt: skip
    return path
