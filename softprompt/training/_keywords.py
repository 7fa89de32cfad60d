"""The plain keywords of `train`, as a user writes them, made into a task, prompts and settings."""

import dataclasses
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeGuard

from ..backbones import AbstractBackbone, refuse_no_folder, spec_or_backbone
from ..checks import listed, plain, require_different, require_kind
from ..errors import BadInput, UnknownName, quoted
from ..prompts.methods import Method
from ..prompts.product import product
from ..settings import ModelSpec, PromptSettings, Seeds, TrainSettings, weights_text
from ..tasks import MemoryRows, Task, Wording, custom_task, holds_rows, is_data_file, on_rows, refuse_template
from ..tasks import task as find_task

# As on the command line: one column is the usual case.
_ALIASES = {"text_column": "text_columns", "metric": "metrics"}
_SPLIT_FILES = {"validation_data": "validation", "test_data": "test"}
_SETTINGS = {field.name for field in dataclasses.fields(TrainSettings)}
_PROMPT = {field.name for field in dataclasses.fields(PromptSettings)}
# max_length is a setting of the run, which overrides the task's.
_ROWS = {*inspect.signature(custom_task).parameters, *_ALIASES, *_SPLIT_FILES} - {"files", "max_length"}
# What replaces the words of a task that has its own.
_WORDING = {field.name for field in dataclasses.fields(Wording)}
_MODEL = {field.name for field in dataclasses.fields(ModelSpec)} - {"name"}
_KNOWN = _SETTINGS | _PROMPT | _ROWS | _MODEL | {"prompt_length"}


def refuse_unknown_keywords(function: str, keywords: Iterable[str], parameters: Iterable[str]) -> None:
    """Refuse a keyword that a function with those of `train` does not have.

    Args:
        function: its name.
        keywords: those that were given beside its parameters.
        parameters: the names of its parameters.

    Raises:
        UnknownName: with the nearest that it has.
    """
    for name in keywords:
        if name not in _KNOWN:
            known = {*_KNOWN, *parameters} - {"keywords"}
            raise UnknownName(f"keyword of {function}", name, known)


def task_from(given: Any, keywords: Mapping[str, Any]) -> Task:
    """The task that the first argument of `train` stands for: a Task, its name, files, or rows in memory.

    Args:
        given: that argument.
        keywords: those of `custom_task` are taken, and `text_column`, `validation_data` and `test_data`.

    Raises:
        UnknownName: no such task, metric or column.
        BadInput: no rows, keywords that belong to rows beside a task, or a template that shows the answer.
    """
    options = {_ALIASES.get(name, name): value for name, value in keywords.items() if name in _ROWS}
    if _is_named(given):
        for name in keywords:
            if name in _ROWS and name not in _WORDING:
                raise BadInput(f"{name} is for rows of your own; give them, or a file, in place of the task")
        named = find_task(given) if isinstance(given, str) else given
        refuse_template(named.template, named.target)
        return named
    _refuse_no_rows(given)
    more = {split: options.pop(name) for name, split in _SPLIT_FILES.items() if name in options}
    if more and isinstance(given, Mapping):
        raise BadInput("give validation and test rows with the others, or by their keywords, not both")
    for name in ("text_columns", "metrics"):
        if isinstance(options.get(name), str):
            options[name] = [options[name]]
    return custom_task({"train": given, **more} if more else given, **options)


def wording_from(given: Any, keywords: Mapping[str, Any]) -> Wording:
    """The words that replace those of a task; nothing for rows, whose task is made with them.

    Args:
        given: the first argument of `train`.
        keywords: `instruction`, `template` and `label_words` are taken.
    """
    if not _is_named(given):
        return Wording()
    return Wording(**{name: value for name, value in keywords.items() if name in _WORDING})


def _is_named(given: Any) -> TypeGuard[Task | str]:
    """Whether that is a Task or the name of one, in the place of rows."""
    return isinstance(given, Task) or (isinstance(given, str) and not is_data_file(given))


def _refuse_no_rows(given: Any) -> None:
    several = given if isinstance(given, list | tuple) else [given]
    paths = bool(several) and all(isinstance(path, str | Path) for path in several)
    if not (paths or isinstance(given, Mapping) or holds_rows(given)):
        what = "an empty list" if isinstance(given, list | tuple) and not given else f"a {type(given).__name__}"
        raise BadInput(
            f"train takes a task, its name, a file, or rows (a list of dicts, a DataFrame, a Dataset), not {what}"
        )


def prompts_from(
    prompts: Sequence[PromptSettings] | PromptSettings | None, keywords: Mapping[str, Any]
) -> list[PromptSettings]:
    """The prompts of a run: those given, or one for each method, learning rate and seed, nested in this order.

    Raises:
        BadInput: no prompt, or both.
    """
    options = {name: value for name, value in keywords.items() if name in _PROMPT or name == "prompt_length"}
    if prompts is not None:
        if options:
            raise BadInput(f"{next(iter(options))} belongs to the prompts; give it in prompts, or leave prompts out")
        prompts = listed("prompts", prompts, PromptSettings)
        for prompt in prompts:
            _refuse_no_settings("prompts", prompt, PromptSettings)
        if not prompts:
            raise BadInput("a run needs at least one prompt")
        return prompts
    if "prompt_length" in options:
        given = options.get("options", {})
        require_kind("options", given, Mapping)
        options["options"] = {**given, "prompt_length": options.pop("prompt_length")}
    methods = _several("method", options.pop("method", PromptSettings.method))
    names = [method.name if isinstance(method, Method) else method for method in methods]
    require_different("method", names)
    rates = _several("lr", options.pop("lr", None))
    seeds = [
        seed if isinstance(seed, Seeds) else Seeds.all(seed) for seed in _several("seeds", options.pop("seeds", 0))
    ]
    shared = PromptSettings(**options)
    own = {each.name: {**each.given_options(), **shared.options} for each in methods if isinstance(each, Method)}
    return product(shared, names, rates, seeds, own)


def _several(name: str, value: Any) -> list[Any]:
    """One value or several, as a list."""
    value = plain(value)
    if isinstance(value, str | int | float | Seeds | Method) or value is None:
        return [value]
    values = [plain(each) for each in listed(name, value)]
    if not values:
        raise BadInput(f"{name} is empty; give at least one")
    require_different(name, values)
    return values


def from_any_folder(prompt: PromptSettings) -> PromptSettings:
    """The prompt with the whole path of the file or stored prompts that it begins with."""
    initial = prompt.initial
    is_local = initial.path is not None and (initial.kind == "file" or os.path.exists(initial.path))
    sources = [os.path.abspath(source) if os.path.exists(source) else source for source in prompt.sources]
    init = initial.with_path(os.path.abspath(initial.argument)) if is_local else initial
    return dataclasses.replace(prompt, init=init.text, sources=sources)


def model_from(model: Any, keywords: Mapping[str, Any]) -> ModelSpec | AbstractBackbone:
    """The spec of the frozen model, by its keywords or as it is given, or the loaded backbone.

    Raises:
        BadInput: no name of a model, both a spec and keywords, or a loaded backbone that is not what they say.
    """
    spec = spec_or_backbone(model, {name: value for name, value in keywords.items() if name in _MODEL})
    if isinstance(spec, ModelSpec):
        refuse_no_folder(spec.name)
    return spec


def settings_from(settings: TrainSettings | None, keywords: Mapping[str, Any]) -> TrainSettings:
    """The settings given, or those that the keywords name.

    Raises:
        BadInput: both.
    """
    options = {name: value for name, value in keywords.items() if name in _SETTINGS}
    if "class_weights" in options:
        options["class_weights"] = weights_text(options["class_weights"])
    if settings is not None:
        _refuse_no_settings("settings", settings, TrainSettings)
    if settings is not None and options:
        raise BadInput(f"{next(iter(options))} belongs to the settings; give it in settings, or leave settings out")
    return settings or TrainSettings(**options)


def _refuse_no_settings(name: str, given: Any, kind: type) -> None:
    if not isinstance(given, kind):
        what = kind.__name__
        raise BadInput(f"{name} takes {what}, not a {type(given).__name__}; give {what}(...), or their keywords")


def default_output(task: str, methods: Sequence[str]) -> Path:
    """`runs/glue-sst2-ept-star-20260102-030405`: the run's folder where none is given."""
    methods = list(dict.fromkeys(methods))
    what = "-".join([task.replace("/", "-"), *methods[:3], *(["and-more"] if len(methods) > 3 else [])])
    return Path("runs") / f"{what}-{datetime.now():%Y%m%d-%H%M%S}"


def same_rows(task: Task, rows: Any, run: Path) -> Task:
    """The task of a stored run with its rows in memory, which have to be those that it was started with.

    Raises:
        BadInput: rows are needed, or not, or others.
        UnknownName: a split or a column that does not exist.
    """
    stored = task.source.memory
    if not stored:
        if rows is not None:
            raise BadInput(f"{run} reads its rows from where it did when it was started; leave rows out")
        return task
    if rows is None:
        raise BadInput(f"{run} was started with rows in memory; give them again: {how_to_go_on(task, run)}")
    source = on_rows(task, rows if isinstance(rows, Mapping) else {"train": rows}, task.source.delimiter).source
    for split in (*stored, *source.splits):
        before, now = stored.get(split), source.memory.get(split)
        if before != now and split not in task.source.files:
            raise BadInput(_other_rows(split, run, before, now))
    memory = {split: source.memory[split] for split in stored}
    return dataclasses.replace(task, source=dataclasses.replace(task.source, memory=memory))


def _other_rows(split: str, run: Path, before: MemoryRows | None, now: MemoryRows | None) -> str:
    """What is wrong with rows that differ from those of a run, and what to do."""
    if now is None:
        return f"{run} was started with {split} rows in memory; give them too"
    if before is None:
        return f"{run} was started without {split} rows in memory; leave them out"
    values = " with other values" if before.count == now.count else ""
    return (
        f"the {split} rows are not those that {run} was started with: these are {now.count} rows, those were "
        f"{before.count}{values}; give the same rows in the same order"
    )


def how_to_go_on(task: Task, run: Path) -> str:
    """What a user types to continue a run."""
    return (
        f"softprompt.resume({str(run)!r}, rows=...)"
        if task.source.memory
        else f"softprompt train --resume {quoted(run)}"
    )
