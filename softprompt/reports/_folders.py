"""What lies in a folder that a report can show, and what it is called beside the rest."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from ..documents import short_paths
from ..errors import BadInput, SoftPromptError
from ..run_layout import CHECKPOINTS, PEFT, PLAN, PROMPT, WEIGHTS
from ..store import read_json
from ..study import stored_names
from ..tuning import is_search

Kind = Literal["run", "store", "stability", "landscape"]
# Folders that hold no runs of their own, however large they are.
_PRUNED = {CHECKPOINTS, PROMPT, WEIGHTS, PEFT, "fleets"}


def places_in(paths: Sequence["Path | str"]) -> dict[Kind, list[Path]]:
    """The places of everything that a report can show, each once, by kind.

    Raises:
        BadInput: a path that does not exist, or one without any run, study, report or landscape.
    """
    folders: dict[Kind, dict[Path, Path]] = {"run": {}, "store": {}, "stability": {}, "landscape": {}}
    for path in map(Path, paths):
        if not path.is_dir():
            raise BadInput(f"{str(path)!r} is not a folder; give a run, the store of a study, or a folder of them")
        inside = list(_inside(path))
        if not inside:
            raise BadInput(
                f"{str(path)!r} holds no run; give a folder that `softprompt train`, `study` or `stability` wrote"
            )
        for kind, folder in inside:
            folders[kind].setdefault(folder.resolve(), folder)
    return {kind: list(by_path.values()) for kind, by_path in folders.items()}


def _inside(folder: Path) -> Iterator[tuple[Kind, Path]]:
    for place, names, files in os.walk(folder):
        names[:] = sorted(set(names) - _PRUNED)
        if is_search(Path(place)):
            # The other runs of a search were chosen by the rows that they would show as test rows.
            names[:] = [name for name in names if name == "report"]
        if PLAN in files:
            yield "run", Path(place)
        if "landscape.json" in files:
            yield "landscape", Path(place)
        if "report.json" in files and _is_stability(Path(place) / "report.json"):
            yield "stability", Path(place)
        if "runs" in names and stored_names(Path(place)):
            yield "store", Path(place)


def is_of_search(prompt: Path) -> bool:
    """Whether a prompt was trained by `softprompt tune`, which has rows of its own for each of its folds."""
    return any(map(is_search, prompt.resolve().parents[:5]))


def folder_names(folders: Sequence[Path]) -> dict[Path, str]:
    """The name of each folder, with as much of its path before it as tells it from the others."""
    return dict(zip(folders, short_paths([folder.resolve() for folder in folders]), strict=True))


def _is_stability(path: Path) -> bool:
    try:
        return "spreads" in read_json(path, max_bytes=None)
    except SoftPromptError:
        return False
