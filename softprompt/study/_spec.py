"""A run as plain values, and its name: a hash of everything in it that changes a number."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UnknownName
from ..legacy import renamed
from ..settings import ModelSpec, PromptSettings, Seeds, TrainSettings, from_values
from ..tasks import Task, has_instruct
from ..tasks import task as find_task
from ._texts import (
    canonical,
    compact,
    joined,
    other_texts,
    prompt_texts,
    read_settings,
    read_task,
    settings_text,
    size_of,
    task_text,
)

# Increase this number after a change to what training computes from the same settings. Every run then gets a new name.
NUMBERS = 2
DIGITS = 16
# Models that are known to be no decoders without loading them. On these the loss "auto" is "tokens" and the init "auto"
# is "uniform", as on every model before.
NO_DECODERS = ("lab-t5", "lab-t5-small", "lab-bert")
# Fields of a run that say what its frozen model is. Each is an axis of studies and a key of stores: what every run has
# by its own name, and the rest in `backbone`.
OF_MODEL = ("model", "answers", "dtype", "engine", "quantize", "revision")
# Fields that no part of a name is made of but they themselves.
_OTHERS = (*OF_MODEL, "style", "max_bad_rows", "backbone")


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
        task_text(self.declared)
        settings_text(self.settings, False)
        canonical({**vars(self.prompt), "seeds": None})
        canonical([self.backbone, self.tags])

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
        named = {name: getattr(self, name) for name in OF_MODEL}
        return ModelSpec.from_json({**named, **self.backbone})

    @functools.cached_property
    def name(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of everything that changes the numbers, defaults included.

        Options that are off (None, False, empty) count as absent, so that a new option that is off changes no name. The
        method counts with its options and, where the run names no learning rate, its default ones.

        Raises:
            UnknownName: a method or an option that does not exist.
        """
        return hashlib.sha256(joined(self._texts()).encode()).hexdigest()[:DIGITS]

    def with_seeds(self, seeds: Seeds) -> "RunSpec":
        """The same run with other seeds; with the default ones its name says what seeds do not change."""
        return replace(self, prompt=replace(self.prompt, seeds=seeds))

    def numbers(self) -> dict[str, Any]:
        """What the name is made of, under the names of format 1."""
        return json.loads(joined(self._texts()))

    def _texts(self) -> dict[str, str]:
        """The parts of the name as JSON. Most of them are shared by many runs of a study, and made once."""
        # The hash is over the names of format 1, so that a store made before the renaming keeps its runs.
        texts = prompt_texts(self.named_prompt)
        lane = {**texts, **self._layers, "seeds": compact(vars(self.prompt.seeds)).decode()}
        return {"format": str(NUMBERS), "lane": joined(lane), **self._shared_texts()}

    @property
    def _layers(self) -> dict[str, str]:
        """Tells deep prompts that begin as ordinary ones, on decoders, from earlier ones, which began at random."""
        begins_as_ordinary = self.prompt.deep and not self.prompt.initial.is_words and self.model not in NO_DECODERS
        return {"layers": '"states"'} if begins_as_ordinary else {}

    @property
    def named_prompt(self) -> PromptSettings:
        """The prompt, whose init "auto" is "uniform" where it can be nothing else, as it was for every run before."""
        if self.prompt.init != "auto":
            return self.prompt
        may_begin = (
            self.prompt.may_begin_as_words
            and self.model not in NO_DECODERS
            and (self.declared.instruction or (self.style in (None, "instruct") and has_instruct(self.declared)))
        )
        return self.prompt if may_begin else replace(self.prompt, init="uniform")

    def _shared_texts(self) -> dict[str, str]:
        """All but the prompt."""
        others = other_texts(canonical({name: getattr(self, name) for name in _OTHERS}))
        settings = settings_text(self.settings, self.model in NO_DECODERS)
        return {**others, "task": task_text(self.declared), "settings": settings}

    def pass_key(self) -> str:
        """Equal for runs that may share the passes of a frozen model: all but the prompt is equal.

        Prompts of different length do not share: how far a text is cut would depend on the longest. Nor do runs with
        the frozen model's dropout, whose noise is the first prompt's, nor those that train weights, which share none.
        """
        length, is_given, trains_weights = size_of(self.prompt)
        kind = self.named_prompt.initial.kind
        # Examples and restarts give each prompt another length, and all prompts of a run stand after the same words.
        differs = kind == "examples" or (kind in ("auto", "instruction") and self.prompt.restarts > 1)
        alone = self.name if self.settings.backbone_dropout or differs or trains_weights else ""
        # What "auto" stands for depends on all prompts of a run: those that may begin as words are among themselves.
        words = kind if kind in ("auto", "instruction") else ""
        # A prompt may be as long as what it begins as, which a look at a store does not read.
        source = "" if is_given else self.prompt.initial.path or ""
        return f"{joined(self._shared_texts())} {self.settings.loss} {length} {alone} {words}{source}"

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
    def from_json(cls, values: Mapping[str, Any], *, is_of_today: bool = False) -> "RunSpec":
        """The spec that `to_json` wrote.

        Args:
            values: what it wrote.
            is_of_today: whether they are known to have the names of today, so that none has to be looked up.
        """
        values = values if is_of_today else renamed(values)
        known = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise UnknownName("part of a run", name, known)
        prompt = from_values(PromptSettings, values["prompt"])
        task, settings = read_task(compact(values["task"])), read_settings(compact(values["settings"]))
        return cls(**{**values, "task": task, "prompt": prompt, "settings": settings})


def model_fields(model: ModelSpec) -> dict[str, Any]:
    """The fields of a run that say what its frozen model is; `RunSpec.frozen` turns them back."""
    values = model.to_json()
    rest = {name: values.pop(name) for name in values.keys() - set(OF_MODEL)}
    default = ModelSpec()
    return {**values, "backbone": {name: value for name, value in rest.items() if value != getattr(default, name)}}
