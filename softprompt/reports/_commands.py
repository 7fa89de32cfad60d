"""The command that trains the same prompts again."""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Any

from ..settings import PromptSettings, TrainSettings
from ..study import RunSpec
from ..tasks import TASKS
from ._settings import Setting

_OF_SPEC = ("style", "answers", "dtype", "engine", "quantize", "revision", "max_bad_rows")
_PURPOSES = {"order": "--order-seed", "draw": "--draw-seed", "noise": "--noise-seed"}


def command(setting: Setting) -> str:
    """`softprompt train` with everything of a setting that is not a default, and its seeds."""
    spec = setting.entries[0].run.spec
    words = ["softprompt", "train", "--task", _task(spec), "--model", spec.model, *_task_options(spec)]
    words += ["--method", spec.prompt.method]
    words += _seeds([entry.run.spec for entry in setting.entries])
    words += _options(spec.prompt, PromptSettings(), ("method", "seeds", "options"))
    for name, item in spec.prompt.options.items():
        words += ["--method-option", f"{name}={item}"]
    words += _options(spec.settings, TrainSettings(), ())
    plain = {field.name: field.default for field in dataclasses.fields(RunSpec)}
    for name in _OF_SPEC:
        if (item := getattr(spec, name)) != plain[name] and not (name == "engine" and item in ("packed", "shared")):
            words += [f"--{name.replace('_', '-')}", str(item)]
    return shlex.join(words)


def parts_of(line: str) -> list[str]:
    """A command cut before its options: a line of a narrow page breaks there, and not within `--`."""
    return re.split(r" (?=--)", line)


def _task(spec: RunSpec) -> str:
    """The name of a declared task, or the file of a user's own rows."""
    files = spec.declared.source.paths("train") if spec.declared.source.files else ()
    return str(files[0]) if files else spec.declared.name


def _task_options(spec: RunSpec) -> list[str]:
    declared = TASKS.get(spec.declared.name)
    if declared is None:
        return []
    before = declared.source.options
    changed = {name: item for name, item in spec.declared.source.options.items() if before.get(name) != item}
    return [word for name, item in changed.items() for word in ("--task-option", f"{name}={item}")]


def _seeds(specs: Sequence[RunSpec]) -> list[str]:
    """One `--seed` for each prompt, and an option for each purpose whose seed stays the same while that one varies."""
    seeds = [dataclasses.asdict(spec.prompt.seeds) for spec in specs]
    words = [word for number in dict.fromkeys(s["initialization"] for s in seeds) for word in ("--seed", str(number))]
    for name, option in _PURPOSES.items():
        numbers = {values[name] for values in seeds}
        if len(numbers) == 1 and numbers != {values["initialization"] for values in seeds}:
            words += [option, str(*numbers)]
    return words


def _options(settings: Any, default: Any, left_out: Sequence[str]) -> list[str]:
    words: list[str] = []
    for field in dataclasses.fields(settings):
        item = getattr(settings, field.name)
        if field.name in left_out or item == getattr(default, field.name):
            continue
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(item, bool):
            words += [option] if item else [f"--no-{field.name.replace('_', '-')}"]
        elif isinstance(item, tuple | list):
            words += [word for value in item for word in (option, str(value))]
        else:
            words += [option, str(item)]
    return words
