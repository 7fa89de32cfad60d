"""A study as a TOML file: tables of axes, and the user's own tasks."""

import dataclasses
import inspect
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnknownName, pick
from ..tasks import TASKS, Task, custom_task, with_difficulty
from ..tasks import task as find_task
from ._grid import grid
from ._spec import RunSpec
from .tables import is_column, tags_of

# The scale that a file is written at, where none of its own is called so.
AS_WRITTEN = "paper"
_PARTS = ("runs", "defaults", "tasks", "scales", "reference")
_TASK = inspect.signature(custom_task).parameters.keys() - {"name"}
_TEXTS = ("label_column", "number_column", "target_column", "template", "instruction", "delimiter")


def load_specs(path: "Path | str", scale: str | None = None) -> list[RunSpec]:
    """The runs of a study file, in its order.

    Each table `[[runs]]` is one `grid`: its lists are axes. `[defaults]` holds what all tables share, `[tasks.NAME]`
    declares a task as `custom_task` does, with files relative to the study file, or with `lab` a lab task that has
    other rows than it declares. `[scales.NAME]` is the same study for another machine: its keys take the place of
    those of the defaults and of every table, and its own tables `[[scales.NAME.runs]]` that of all tables.

    Args:
        path: the study file.
        scale: a name in its `[scales]`; None, or "paper" where no scale is called so, is the study as the file
            declares it.

    Raises:
        BadInput: the file cannot be read, is no TOML, or has no runs; or a tag is called like a column of tables.
        UnknownName: a key or a scale that does not exist, with the nearest.
    """
    path = Path(path)
    values = at_scale(path, parsed(path), scale)
    for name in values:
        if name not in _PARTS:
            raise UnknownName(f"part of {path}", name, _PARTS)
    tables, defaults = values.get("runs"), values.get("defaults", {})
    if not isinstance(tables, list) or not tables:
        raise BadInput(f"{path} has no runs; write at least one table [[runs]]")
    declared = values.get("tasks", {})
    named = declared.values() if isinstance(declared, Mapping) else (declared,)
    if not all(isinstance(part, Mapping) for part in (defaults, *tables, *named)):
        raise BadInput(f"{path}: runs, defaults and tasks hold tables, as in [[runs]], [defaults] and [tasks.NAME]")
    tasks = TASKS | {name: _task(name, given, path.parent) for name, given in declared.items()}
    return [spec for table in tables for spec in _runs(path, {**defaults, **table}, tasks)]


def at_scale(path: Path, values: dict[str, Any], scale: str | None) -> dict[str, Any]:
    """The parts of a study file at one of its scales."""
    scales = values.get("scales", {})
    if not isinstance(scales, Mapping) or not all(isinstance(part, Mapping) for part in scales.values()):
        raise BadInput(f"{path}: scales hold tables, as in [scales.lab]")
    if scale is None or (scale == AS_WRITTEN and scale not in scales):
        return values
    if not scales:
        raise BadInput(f"{path} has no scales; leave --scale out")
    chosen = dict(pick(f"scale of {path}", scale, {AS_WRITTEN: {}, **scales}))
    runs = chosen.pop("runs", None)
    if runs is None and isinstance(values.get("runs"), list):
        runs = [{**table, **chosen} for table in values["runs"] if isinstance(table, Mapping)]
    defaults = values.get("defaults", {})
    # What is no table is refused where all parts are read.
    return {**values, "defaults": {**defaults, **chosen} if isinstance(defaults, Mapping) else defaults, "runs": runs}


def parsed(path: Path) -> dict[str, Any]:
    """The parts of a study file as they stand in it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}; give a study file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is not TOML: {error}") from error


def _runs(path: Path, table: Mapping[str, Any], tasks: Mapping[str, Task]) -> list[RunSpec]:
    if "task" not in table:
        raise BadInput(f"{path}: a table [[runs]] has no task; give one, there or in [defaults]")
    names = table["task"] if isinstance(table["task"], list) else [table["task"]]
    # The task takes the place of its name, because the order of the keys is the order of the runs.
    specs = grid(**{**table, "task": [pick("task", str(name), tasks) for name in names]})
    for tag in sorted(tags_of(specs)):
        if is_column(tag):
            raise BadInput(f"{path}: a tag is called {tag!r}, like a column or a key of tables; give it another name")
    return specs


def _task(name: str, given: Mapping[str, Any], folder: Path) -> Task:
    if "lab" in given:
        options = {key: value for key, value in given.items() if key != "lab"}
        return dataclasses.replace(with_difficulty(find_task(str(given["lab"])), **options), name=name)
    for key in given:
        if key not in _TASK:
            raise UnknownName(f"setting of task {name!r}", key, _TASK)
    for key, value in given.items():
        kind, is_one = ("text", _is_text) if key in _TEXTS else ("text, or a list of texts", _are_texts)
        if key in (*_TEXTS, "text_columns") and not is_one(value):
            raise BadInput(f"task {name!r}: {key} must be {kind}, not {value!r}")
    files = given.get("files", {})
    named = files if isinstance(files, Mapping) else {"train": files}
    for split, paths in named.items():
        if not _are_texts(paths):
            raise BadInput(f"task {name!r}: the files of {split!r} must be a path, or a list of paths, not {paths!r}")
    return custom_task(**{**given, "files": {split: _beside(folder, v) for split, v in named.items()}}, name=name)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(map(_is_text, value)))


def _beside(folder: Path, given: Any) -> list[str]:
    """The files that a study names, relative to its own folder."""
    return [str((folder / path).resolve()) for path in ([given] if isinstance(given, str) else given)]
