"""A run as plain values, and its name: a hash of everything in it that changes a number."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnknownName, pick
from ..legacy import as_before, renamed
from ..settings import ModelSpec, PromptSettings, TrainSettings, from_values
from ..tasks import Task
from ..tasks import task as find_task

# Increase this number after a change to what training computes from the same settings. Every run then gets a new name.
NUMBERS = 2
DIGITS = 16
# Models on which the loss "auto" is known to be "tokens" as before, without loading them: no decoders.
AUTO_IS_TOKENS = ("lab-t5", "lab-t5-small", "lab-bert")
# Fields of a run that say what its frozen model is. Each is an axis of studies and a key of stores: what every run has
# by its own name, and the rest in `backbone`.
_OF_MODEL = ("model", "answers", "dtype", "engine", "quantize", "revision")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One prompt to be trained: all arguments of `train`, and tags that only describe it.

    Args:
        task: a name in TASKS, or a Task; kept as the Task.
        model: hub id, folder or name of a built-in backbone, as given to `load_backbone`.
        prompt: the prompt.
        settings: how it is trained.
        style: as in `train`; None on a decoder is "words", what it was when the first runs got their names.
        answers: as in `train`.
        dtype: precision of the frozen model.
        engine: "packed", "shared", "reference" or "auto" (`load_backbone`).
        quantize: "int8", or None.
        revision: commit of the model on the hub.
        max_bad_rows: malformed rows to drop before it is an error.
        backbone: further fields of ModelSpec, as embedding_scale.
        tags: a study's own labels; they do not enter the name.

    Raises:
        UnknownName: a task that does not exist.
        BadInput: a value that JSON cannot hold, as NaN.
    """

    task: Task | str
    model: str
    prompt: PromptSettings = field(default_factory=PromptSettings)
    settings: TrainSettings = field(default_factory=TrainSettings)
    style: str | None = None
    answers: str = "auto"
    dtype: str = "float32"
    engine: str = "auto"
    quantize: str | None = None
    revision: str | None = None
    max_bad_rows: int = 0
    backbone: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look up the task, and refuse values that cannot be written as JSON."""
        if isinstance(self.task, str):
            object.__setattr__(self, "task", find_task(self.task))
        canonical(self.to_json())

    @property
    def declared(self) -> Task:
        """The task itself, never its name."""
        assert isinstance(self.task, Task)
        return self.task

    @property
    def frozen(self) -> ModelSpec:
        """The frozen model that the run is trained on, on whatever device.

        Raises:
            UnknownName: a field, or the value of one, that does not exist.
        """
        named = {name: getattr(self, name) for name in _OF_MODEL}
        return ModelSpec.from_json({**named, **self.backbone})

    @functools.cached_property
    def name(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of everything that changes the numbers, defaults included.

        Options that are off (None, False, empty) count as absent, so that a new option that is off changes no name. The
        method counts with its options and, where the run names no learning rate, its default ones.

        Raises:
            UnknownName: a method or an option that does not exist.
        """
        return hashlib.sha256(canonical(self.numbers())).hexdigest()[:DIGITS]

    def numbers(self) -> dict[str, Any]:
        """What the name is made of."""
        # The hash is over the names of format 1, so that a store made before the renaming keeps its runs.
        values = _without_what_is_off(as_before({**self.to_json(), "tags": None}))
        if self.declared.cue == "":
            # An empty cue is no absent one, which is the decoder's own.
            values["task"]["cue"] = ""
        values["lane"]["options"] = _resolved(self.prompt)
        values["lane"].pop("regularizer", None)
        values["lane"] |= _regularized(self.prompt)
        if self.prompt.restarts == 1:
            # One restart means that restarts are off, so it counts as absent.
            del values["lane"]["restarts"]
        loss = values["settings"].get("loss")
        if loss == "tokens" or (loss == "auto" and self.model in AUTO_IS_TOKENS):
            # What runs of before mean, which had no other loss. On a decoder, "auto" means another one since.
            del values["settings"]["loss"]
        return {"format": NUMBERS, **values}

    def pass_key(self) -> str:
        """Equal for runs that may share the passes of a frozen model: all but the prompt is equal.

        Prompts of different length do not share: how far a text is cut would depend on the longest. Nor do runs with
        the frozen model's dropout, whose noise is the first prompt's, nor those that train weights, which share none.
        """
        from ..prompts.methods import METHODS

        values = {**self.to_json(), "prompt": None, "tags": None}
        method = pick("method", self.prompt.method, METHODS).with_options(self.prompt.options)
        kind = self.prompt.init.partition(":")[0]
        # Examples and restarts give each prompt another length, and all prompts of a run stand behind the same words.
        differs = kind == "examples" or (kind == "instruction" and self.prompt.restarts > 1)
        alone = self.name if self.settings.backbone_dropout or differs or method.weights else ""
        words = {"words": kind} if kind == "instruction" else {}
        return canonical({**values, "length": method.prompt_length, "alone": alone, **words}).decode()

    def describe(self) -> str:
        """One line for messages: the run's name, and a description for people."""
        lr = "" if self.prompt.lr is None else f", lr {self.prompt.lr:g}"
        restarts = "" if self.prompt.restarts == 1 else f", {self.prompt.restarts} restarts"
        who = f"{self.prompt.method}{lr}{restarts}, seed {self.prompt.seeds.initialization}"
        return f"run {self.name} ({who}, {self.declared.name}, {self.model})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        prompt, settings = dataclasses.asdict(self.prompt), dataclasses.asdict(self.settings)
        return {**values, "task": self.declared.to_json(), "prompt": prompt, "settings": settings}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunSpec":
        """The spec that `to_json` wrote."""
        values = renamed(values)
        known = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise UnknownName("part of a run", name, known)
        prompt, settings = (
            from_values(PromptSettings, values["prompt"]),
            from_values(TrainSettings, {"loss": "tokens", **values["settings"]}),
        )
        return cls(**{**values, "task": Task.from_json(values["task"]), "prompt": prompt, "settings": settings})


def model_fields(model: ModelSpec) -> dict[str, Any]:
    """The fields of a run that say what its frozen model is; `RunSpec.frozen` turns them back."""
    values = model.to_json()
    rest = {name: values.pop(name) for name in values.keys() - set(_OF_MODEL)}
    default = ModelSpec()
    return {**values, "backbone": {name: value for name, value in rest.items() if value != getattr(default, name)}}


def canonical(values: Any) -> bytes:
    """JSON in which equal values have the same text: sorted keys, no blanks, whole floats as integers.

    Raises:
        BadInput: a value is NaN, infinite, or no plain value.
    """
    return compact(_spelled(values))


def compact(values: Any) -> bytes:
    """Plain values as JSON with sorted keys and no blanks; each float is written so that its bits are read back."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


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
    from ..regularizers import regularizers

    acting = [regularizer.to_json() for regularizer in regularizers(prompt.regularizer) if not regularizer.is_off]
    return {"regularizers": acting} if acting else {}


def _without_what_is_off(value: Any) -> Any:
    """Mappings without the entries that are None, False or empty, at any depth; 0 is a number and stays."""
    if not isinstance(value, Mapping):
        return value
    left = {key: _without_what_is_off(item) for key, item in value.items()}
    return {key: item for key, item in left.items() if not (item is None or item is False or _is_empty(item))}


def _is_empty(value: Any) -> bool:
    return isinstance(value, str | Mapping | list | tuple) and not value


def _resolved(prompt: PromptSettings) -> dict[str, Any]:
    """The method that a prompt trains: every number that its name and options stand for."""
    from ..prompts.methods import METHODS

    method = pick("method", prompt.method, METHODS).with_options(prompt.options)
    values = {**dataclasses.asdict(method), "options": method.defaults}
    # A default learning rate counts only where it is used.
    unused = {"name", "summary"} | ({n for n in values if n.startswith("lr")} if prompt.lr is not None else set())
    return _without_what_is_off({name: value for name, value in values.items() if name not in unused})
