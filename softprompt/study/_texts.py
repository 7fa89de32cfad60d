"""The parts of a run as JSON text, from which its name is made. Runs of a study share most of them, so they are kept.

A study of ten thousand runs has few tasks and settings, and its prompts differ mostly in their seeds.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..documents import compact
from ..errors import BadInput, pick
from ..legacy import as_before
from ..settings import PromptSettings, TrainSettings, from_values
from ..tasks import Task

# Texts are kept by the identity of what they are of, beside the object itself: then no other can have its identity.
_TASKS: dict[int, tuple[Task, str]] = {}
_PROMPTS: dict[tuple[Any, ...], tuple[Any, dict[str, str], tuple[int, bool, bool]]] = {}
MOST_KEPT = 4096
_SEEDLESS = tuple(f.name for f in dataclasses.fields(PromptSettings) if f.name not in ("options", "seeds"))


def task_text(task: Task) -> str:
    """A task without what is off in it.

    Raises:
        BadInput: a value that JSON cannot hold.
    """
    if id(task) not in _TASKS:
        values = without_what_is_off(task.to_json())
        if task.cue == "":
            # An empty cue is no absent one, which is the decoder's own.
            values["cue"] = ""
        _refuse_many(_TASKS)
        _TASKS[id(task)] = task, canonical(values).decode()
    return _TASKS[id(task)][1]


@functools.lru_cache(maxsize=MOST_KEPT)
def settings_text(settings: TrainSettings, auto_is_tokens: bool) -> str:
    """Settings of training without what is off in them.

    Args:
        settings: of a run.
        auto_is_tokens: whether the loss "auto" is that over tokens for the run's model.
    """
    values = without_what_is_off(as_before(vars(settings)))
    loss = values.get("loss")
    if loss == "tokens" or (loss == "auto" and auto_is_tokens):
        # What runs of earlier versions mean: they had no other loss. On a decoder, "auto" means another one since.
        del values["loss"]
    return canonical(values).decode()


@functools.lru_cache(maxsize=MOST_KEPT)
def other_texts(values: bytes) -> dict[str, str]:
    """The fields of a run that are in no other part, as `canonical` gives them, without what is off, each as text."""
    plain = without_what_is_off(as_before(json.loads(values)))
    return {name: canonical(value).decode() for name, value in plain.items()}


def prompt_texts(prompt: PromptSettings) -> dict[str, str]:
    """The settings of a prompt without what is off in them and without its seeds, each as text.

    The method counts with every number that its name and options stand for.

    Raises:
        UnknownName: a method, an option or a regulariser that does not exist.
    """
    return _prompt(prompt)[1]


def size_of(prompt: PromptSettings) -> tuple[int, bool, bool]:
    """The length of a prompt, whether its options give it, and whether its method trains weights in place of one."""
    return _prompt(prompt)[2]


def _prompt(prompt: PromptSettings) -> tuple[Any, dict[str, str], tuple[int, bool, bool]]:
    from ..prompts.methods import METHODS, SIZES

    preset = pick("method", prompt.method, METHODS)
    key = (*(getattr(prompt, name) for name in _SEEDLESS), canonical(prompt.options))
    # The preset is compared, because a method's defaults are part of a run, and tests change them.
    if key not in _PROMPTS or _PROMPTS[key][0] is not preset:
        method = preset.with_options(prompt.options)
        values = without_what_is_off(as_before({**vars(prompt), "seeds": None}))
        values["options"] = _resolved(prompt, method)
        values.pop("regularizer", None)
        values |= _regularized(prompt)
        if prompt.restarts == 1:
            # One restart means that restarts are off, so it counts as absent.
            del values["restarts"]
        texts = {name: canonical(value).decode() for name, value in values.items()}
        _refuse_many(_PROMPTS)
        is_given = bool(prompt.options.keys() & set(SIZES))
        _PROMPTS[key] = preset, texts, (method.prompt_length, is_given, bool(method.weights))
    return _PROMPTS[key]


def _refuse_many(kept: dict[Any, Any]) -> None:
    if len(kept) >= MOST_KEPT:
        kept.clear()


@functools.lru_cache(maxsize=MOST_KEPT)
def read_task(text: bytes) -> Task:
    """The task that a text of `compact` holds; runs of a study share one object."""
    return Task.from_json(json.loads(text))


@functools.lru_cache(maxsize=MOST_KEPT)
def read_settings(text: bytes) -> TrainSettings:
    """The settings that a text of `compact` holds; older runs name no loss, for which there was no choice."""
    return from_values(TrainSettings, {"loss": "tokens", **json.loads(text)})


def joined(texts: Mapping[str, str]) -> str:
    """One JSON object of texts that are JSON, in the order of their names."""
    return "{" + ",".join(f'"{name}":{texts[name]}' for name in sorted(texts)) + "}"


def canonical(values: Any) -> bytes:
    """JSON in which equal values have the same text: sorted keys, no blanks, whole floats as integers.

    Raises:
        BadInput: a value is NaN, infinite, or no plain value.
    """
    return compact(_spelled(values))


def _spelled(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(key): _spelled(item) for key, item in value.items()}
        case list() | tuple():
            return [_spelled(item) for item in value]
        case float() if not math.isfinite(value):
            raise BadInput(f"{value} cannot be part of a run; give a finite number")
        case float() if value.is_integer():
            return int(value)
        case Path():
            return str(value)
        case None | bool() | int() | float() | str():
            return value
    raise BadInput(f"{value!r} ({type(value).__name__}) cannot be part of a run; give plain values")


def _regularized(prompt: PromptSettings) -> dict[str, Any]:
    """The regularisers that act, each with every number that its name and options stand for; nothing without any."""
    if not prompt.regularizer:
        return {}
    from ..regularizers import regularizers

    acting = [regularizer.to_json() for regularizer in regularizers(prompt.regularizer) if not regularizer.is_off]
    return {"regularizers": acting} if acting else {}


def without_what_is_off(value: Any) -> Any:
    """Mappings without the entries that are None, False or empty, at any depth; 0 is a number and stays."""
    if not isinstance(value, Mapping):
        return value
    left = {key: without_what_is_off(item) for key, item in value.items()}
    return {key: item for key, item in left.items() if not (item is None or item is False or _is_empty(item))}


def _is_empty(value: Any) -> bool:
    return isinstance(value, str | Mapping | list | tuple) and not value


def _resolved(prompt: PromptSettings, method: Any) -> dict[str, Any]:
    """The method that a prompt trains: every number that its name and options stand for."""
    values = {**vars(method), "options": method.defaults}
    # A default learning rate counts only where it is used.
    unused = {"name", "summary"} | ({n for n in values if n.startswith("lr")} if prompt.lr is not None else set())
    return without_what_is_off({name: value for name, value in values.items() if name not in unused})
