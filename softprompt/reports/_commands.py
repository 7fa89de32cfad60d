"""The commands that train the same prompts again."""

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..checks import option
from ..settings import PromptSettings, TrainSettings
from ..study import RunSpec
from ..tasks import OWN_STYLE, TASKS, label_values
from ._settings import Setting

_OF_SPEC = ("style", "answers", "dtype", "engine", "quantize", "revision", "max_bad_rows")
_PURPOSES = {"initialization": "--init-seed", "order": "--order-seed", "draw": "--draw-seed", "noise": "--noise-seed"}


def commands(setting: Setting) -> list[str]:
    """`softprompt train` with everything of a setting that is not a default; one for all its seeds, if one can."""
    return [_command(setting.entries[0].run.spec, words) for words in _seeds([e.run.spec for e in setting.entries])]


def _command(spec: RunSpec, seeds: Sequence[str]) -> str:
    words = ["softprompt", "train", *_rows(spec), "--model", spec.model, *_task_options(spec), *_wording(spec)]
    words += [word for name, item in spec.backbone.items() for word in (option(name), str(item))]
    words += ["--method", spec.prompt.method, *seeds]
    words += _options(spec.prompt, PromptSettings(), ("method", "seeds", "options", "sources"))
    words += [word for source in spec.prompt.sources for word in ("--source", source)]
    for name, item in spec.prompt.options.items():
        words += ["--method-option", f"{name}={item}"]
    words += _options(spec.settings, TrainSettings(), ())
    plain = {field.name: field.default for field in dataclasses.fields(RunSpec)}
    for name in _OF_SPEC:
        if (item := getattr(spec, name)) != plain[name] and not (name == "engine" and item in ("packed", "shared")):
            words += [option(name), str(item)]
    return shlex.join(words)


def parts_of(line: str) -> list[str]:
    """A command cut before its options: a line of a narrow page breaks there, and not within `--`."""
    return re.split(r" (?=--)", line)


def _rows(spec: RunSpec) -> list[str]:
    """The name of a declared task, or the files of a user's own rows and the column of their answers."""
    task, source = spec.declared, spec.declared.source
    if not source.files:
        return ["--task", task.name]
    options = {"train": "--data", "validation": "--validation-data", "test": "--test-data"}
    words = [word for split in source.files for path in source.paths(split) for word in (options[split], path)]
    if source.delimiter:
        words += ["--delimiter", source.delimiter]
    column = {"label": "--label-column", "number": "--number-column", "text": "--target-column"}[task.answer]
    return [*words, column, task.target, *(word for name in task.metrics for word in ("--metric", name))]


def _wording(spec: RunSpec) -> list[str]:
    """Style, or template, instruction and label words where they are not those of a style."""
    task = spec.declared
    if task.name in TASKS and task.style != OWN_STYLE:
        default = TASKS[task.name].style
        return [] if spec.style is not None or task.style == default else ["--style", task.style]
    if task.name not in TASKS and not task.source.files:
        return []
    words = ["--template", task.template]
    if task.instruction:
        words += ["--instruction", task.instruction]
    if task.answer == "label" and tuple(map(str, label_values(task))) != task.labels:
        pairs = zip(label_values(task), task.labels, strict=True)
        words += [word for value, label in pairs for word in ("--label-words", f"{value}={label}")]
    return words


def _task_options(spec: RunSpec) -> list[str]:
    declared = TASKS.get(spec.declared.name)
    if declared is None:
        return []
    before = declared.source.options
    changed = {name: item for name, item in spec.declared.source.options.items() if before.get(name) != item}
    return [word for name, item in changed.items() for word in ("--task-option", f"{name}={item}")]


def _seeds(specs: Sequence[RunSpec]) -> list[list[str]]:
    """The options of seeds of each command: all of them in one where they vary as one, else by what they share."""
    seeds = list({spec.prompt.seeds: dataclasses.asdict(spec.prompt.seeds) for spec in specs}.values())
    alone = (words for purpose in _PURPOSES if (words := _in_one(seeds, purpose)))
    if one := next(alone, None):
        return [one]
    groups: dict[tuple[int | None, ...], list[dict[str, int]]] = {}
    for each in seeds:
        shared = (None if each[purpose] == each["initialization"] else each[purpose] for purpose in _PURPOSES)
        groups.setdefault(tuple(shared), []).append(each)
    return [_in_one(group, "initialization") for group in groups.values()]


def _in_one(seeds: Sequence[Mapping[str, int]], varying: str) -> list[str]:
    """One `--seed` for each prompt, that of this purpose, and an option for each purpose that keeps its seed.

    Empty where another purpose varies in another way.
    """
    numbers = [each[varying] for each in seeds]
    words = [word for number in numbers for word in ("--seed", str(number))]
    for purpose, flag in _PURPOSES.items():
        of_purpose = [each[purpose] for each in seeds]
        if of_purpose != numbers:
            words += [flag, str(of_purpose[0])]
        if of_purpose != numbers and len(set(of_purpose)) > 1:
            return []
    return words if len(set(numbers)) == len(numbers) else []


def _options(settings: Any, default: Any, left_out: Sequence[str]) -> list[str]:
    words: list[str] = []
    for field in dataclasses.fields(settings):
        item = getattr(settings, field.name)
        if field.name in left_out or item == getattr(default, field.name):
            continue
        name = option(field.name)
        if isinstance(item, bool):
            words += [name if item else option(f"no_{field.name}")]
        elif isinstance(item, tuple | list):
            words += [word for value in item for word in (name, str(value))]
        else:
            words += [name, str(item)]
    return words
