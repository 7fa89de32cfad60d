"""What tasks are called beside each other: tasks of one name that read other rows or ask otherwise are told apart."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, final

from ..documents import short_paths
from ._base import Task
from ._source import Source

# No differences of tasks: where their files are seen from, and what settings of a run made of them.
_LEFT_OUT = ("name", "source", "beside", "drawn", "is_foreign", "max_length", "opening_ids")
# What a task asks may be put in many ways.
_WORDS = ("template", "t5_template", "labels", "truncate", "prepare", "extra_columns", "window", "stride", "style",
          "decimals", "instruction", "cue")  # fmt: skip
_LONGEST = 40
Part = Mapping[str, Any]


@final
class TaskNames:
    """The names of some tasks; where tasks of one name differ, the name and what differs.

    Args:
        tasks: all that stand beside each other.
    """

    def __init__(self, tasks: Iterable[Task]):
        # Kept, because only then no other object can have the identity of one of them.
        self._tasks = {id(task): task for task in tasks}
        by_name: dict[str, list[tuple[Sequence[Part], list[int]]]] = {}
        for place, task in self._tasks.items():
            kinds, parts = by_name.setdefault(task.name, []), _parts(task)
            same = next((places for other, places in kinds if other == parts), None)
            if same is None:
                kinds.append((parts, [place]))
            else:
                same.append(place)
        self._differences = {
            place: difference
            for kinds in by_name.values()
            for difference, (_, places) in zip(_differences([parts for parts, _ in kinds]), kinds, strict=True)
            for place in places
        }

    def of(self, task: Task) -> str:
        """What a task is called; one that is none of them has its own name."""
        difference = self.difference(task)
        return f"{task.name} ({difference})" if difference else task.name

    def difference(self, task: Task) -> str:
        """What tells a task from the others of its name; empty where nothing has to."""
        return self._differences.get(id(task), "")


def without_words(task: Task) -> Task:
    """A task of the same rows and scores, equal for all ways to put it."""
    plain = {f.name: f.default for f in dataclasses.fields(Task) if f.name in _WORDS}
    numbers = tuple(map(str, range(len(task.labels))))
    return dataclasses.replace(task, **{**plain, "template": "", "labels": numbers})


def row_names(tasks: Iterable[Task]) -> dict[int, str]:
    """What tasks are called by what they read, however they are put: by identity, told apart as by `TaskNames`."""
    plain = {place: without_words(task) for place, task in {id(task): task for task in tasks}.items()}
    names = TaskNames(plain.values())
    return {place: names.of(task) for place, task in plain.items()}


def _parts(task: Task) -> Sequence[Part]:
    """What a task reads and asks, in the order in which differences are looked for."""
    source, words = _fields(task.source), _fields(task)
    options, files, memory = source.pop("options"), source.pop("files"), source.pop("memory")
    whole = {split: tuple(PurePath(os.path.abspath(path)) for path in task.source.paths(split)) for split in files}
    hashes = {split: rows.sha256[:8] for split, rows in memory.items()}
    return [options, whole, hashes, source, {"style": words.pop("style")}, words]


def _fields(of: Source | Task) -> dict[str, Any]:
    return {f.name: getattr(of, f.name) for f in dataclasses.fields(of) if f.name not in _LEFT_OUT}


def _differences(kinds: Sequence[Sequence[Part]]) -> list[str]:
    """What tells each of these tasks of one name from the others."""
    found = [""] * len(kinds)
    for part in zip(*kinds, strict=True):
        if len(set(found)) == len(kinds):
            break
        for key in dict.fromkeys(key for values in part for key in values):
            values = [each.get(key) for each in part]
            if any(value != values[0] for value in values):
                texts = zip(found, _texts(key, values), strict=True)
                found = [", ".join(filter(None, texts_of)) for texts_of in texts]
    counts = Counter(found)
    return [text if counts[text] == 1 else f"{text} {number}".strip() for number, text in enumerate(found, 1)]


def _texts(key: str, values: Sequence[Any]) -> list[str]:
    """The values of a key as they are shown: a file by the end of its path, nothing by nothing."""
    first = [value[0] if value and isinstance(value, tuple) else value for value in values]
    files = [path for path in first if isinstance(path, PurePath)]
    if not files:
        return ["" if value in (None, "", ()) else _short(f"{key}={value}") for value in values]
    short = dict(zip(files, short_paths(files), strict=True))
    return [short.get(path, "") for path in first]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
