"""What may be proposed: settings by name, and how they become a prompt that can be trained."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..backbones import AbstractBackbone
from ..errors import SoftPromptError
from ..inference.asked import worded_for
from ..inference.scoring_rule import auto_loss
from ..initial import Initial
from ..prompts.methods import METHODS, Method
from ..settings import PromptSettings, Seeds, TrainSettings
from ..study import RunSpec, model_fields
from ..tasks import TASKS, Task, Wording
from ..training import EXAMPLES, auto_init, may_show

METHODS_TRIED = ("prompt-tuning", "scaled", "ept-star", "residual", "p-tuning")
LENGTHS = (10, 5, 20, 50)
# Factors on a method's own learning rate.
RATES = (0.03, 3.0)
RESTARTS = (1, 4)
REGULARIZERS = ("", "ptp-rn", "ptp-adv")
# Styles that a declared task may have on a kind of model, beside its default.
STYLES = {"encoder-decoder": ("numeric", "words", "t5"), "encoder": ("words", "pet-0", "pet-1"),
          "decoder": ("instruct", "words")}  # fmt: skip
# Settings that all candidates of a fleet share.
SHARED = ("template", "length", "loss")

Params = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Settings that can be trained.

    Args:
        task: as the model is asked it.
        prompt: the prompt, with the seeds of the search.
        settings: what the fleet shares.
    """

    task: Task
    prompt: PromptSettings
    settings: TrainSettings

    @property
    def style(self) -> str | None:
        """What `train` has to be told so that it asks the task as it is."""
        return self.task.style if self.task.name in TASKS and self.task.style != "own" else None

    def spec(self, backbone: AbstractBackbone) -> RunSpec:
        """The candidate as a run of a study: its name is a hash of all that changes its numbers."""
        fields = {**model_fields(backbone.spec), "model": backbone.spec.name or backbone.name}
        return RunSpec(task=self.task, prompt=self.prompt, settings=self.settings, style=self.style, **fields)

    def seeded(self, seed: int) -> PromptSettings:
        """The prompt with another seed for everything random."""
        return dataclasses.replace(self.prompt, seeds=Seeds.all(seed))

    def to_json(self) -> dict[str, Any]:
        """The settings that differ from those of `train`, by name."""
        values: dict[str, Any] = {}
        for settings in (self.prompt, self.settings):
            default = type(settings)()
            values |= {name: value for name, value in vars(settings).items() if value != getattr(default, name)}
        values.pop("seeds", None)
        options = values.pop("options", {})
        return {"method": self.prompt.method, **values, **({"options": dict(options)} if options else {})}


@dataclass(frozen=True, kw_only=True)
class Space:
    """All settings that a search may try for a task on a model.

    Args:
        choices: setting -> its values, the default first; the rate apart.
        tasks: template -> the task with it.
        settings: what every candidate shares.
        race: steps of the race of restarts.
        seed: of the search.
        auto: what the beginning "auto" stands for, where the prompt may begin as words.
    """

    choices: Mapping[str, tuple[Any, ...]]
    tasks: Mapping[str, Task]
    settings: TrainSettings
    race: int
    seed: int
    auto: str

    @classmethod
    def of(
        cls,
        backbone: AbstractBackbone,
        tasks: Mapping[str, Task],
        settings: TrainSettings,
        methods: Sequence[str],
        race: int,
        seed: int,
        *,
        row_tokens: float,
    ) -> "Space":
        """The settings that make sense for these tasks on this model; what has one value is in no proposal.

        Args:
            backbone: frozen.
            tasks: template -> the task with it.
            settings: what every candidate shares.
            methods: that may be proposed, the first for the default.
            race: steps of the race of restarts.
            seed: of the search.
            row_tokens: of a training row, on average.
        """
        task = next(iter(tasks.values()))
        beginnings = ["auto", "uniform", "vocabulary"]
        if task.labels:
            beginnings.append("label-words")
        if task.instruction and backbone.answers != "linear-head":
            beginnings.append("instruction")
        auto = auto_init(task, backbone)
        if auto == "uniform":
            # It is not proposed under two names.
            beginnings.remove(auto)
        if may_show(task, backbone, row_tokens):
            beginnings.append(EXAMPLES)
        has_losses = settings.loss == "auto" and task.answer == "label" and backbone.answers != "linear-head"
        choices: dict[str, tuple[Any, ...]] = {
            "template": tuple(tasks),
            "length": LENGTHS,
            "loss": _losses(task, backbone, settings) if has_losses else (settings.loss,),
            "method": tuple(methods),
            "units": ("auto", "other"),
            "beginning": tuple(beginnings),
            "restarts": RESTARTS,
            "regularizer": REGULARIZERS,
        }
        return cls(choices=choices, tasks=tasks, settings=settings, race=race, seed=seed, auto=auto)

    @property
    def default(self) -> Params:
        """The settings of `softprompt train` without options."""
        return {**{name: values[0] for name, values in self.choices.items()}, "rate": 1.0}

    def first(self) -> list[Params]:
        """What is tried before anything is known: the default, and each of what helps most often."""
        plain = self.default
        others = [{"beginning": EXAMPLES}, {"rate": 0.3}, *({"loss": loss} for loss in self.choices["loss"][1:2])]
        others += [{"beginning": "instruction" if self.auto == "uniform" else "uniform"}, {"method": "scaled"}]
        others += [{"restarts": RESTARTS[1]}, {"beginning": "vocabulary"}, {"length": 20}]
        return [plain, *({**plain, **change} for change in others if self._has(change))]

    def _has(self, change: Params) -> bool:
        return all(name == "rate" or value in self.choices[name][1:] for name, value in change.items())

    def candidate(self, params: Params) -> Candidate:
        """The candidate that a proposal stands for. Settings that would mean nothing beside others are left out."""
        method = METHODS[params["method"]]
        begins_as_words = Initial(_beginning(params, method)).is_words
        units = method.units if params["units"] == "auto" or method.is_direction else _other(method.units)
        prompt = PromptSettings(
            method=method.name,
            options={} if begins_as_words else _sized(method, params["length"]),
            units="auto" if units == method.units else units,
            init=_beginning(params, method),
            regularizer=params["regularizer"],
            restarts=params["restarts"] if _may_restart(params) else 1,
            seeds=Seeds.all(self.seed),
        )
        as_auto = dataclasses.replace(prompt, init="auto")
        if as_auto.may_begin_as_words and prompt.init == self.auto:
            # Equal candidates have one name.
            prompt = as_auto
        if prompt.restarts > 1:
            prompt = dataclasses.replace(prompt, restart_steps=self.race)
        if params["rate"] != 1.0:
            begun = self.auto if prompt.may_begin_as_words else prompt.init
            method_rate = Method.of(prompt).resolved(dataclasses.replace(prompt, init=begun)).lr or 0.0
            prompt = dataclasses.replace(prompt, lr=float(f"{params['rate'] * method_rate:.3g}"))
        settings = dataclasses.replace(self.settings, loss=params["loss"])
        return Candidate(task=self.tasks[params["template"]], prompt=prompt, settings=settings)


def _losses(task: Task, backbone: AbstractBackbone, settings: TrainSettings) -> tuple[str, ...]:
    """The default, which names none, and the losses that it does not stand for."""
    default = auto_loss(task, backbone, settings)
    return ("auto", *(loss for loss in ("labels", "tokens", "both") if loss != default))


def _beginning(params: Params, method: Method) -> str:
    # A direction has a norm of its own, so it cannot begin as words.
    is_free = not (Initial(params["beginning"]).is_words and method.is_direction)
    return params["beginning"] if is_free else "uniform"


def _may_restart(params: Params) -> bool:
    """Whether another start is another prompt: label words are the same words each time."""
    return params["beginning"] != "label-words"


def _other(units: str) -> Any:
    return "raw" if units == "rms" else "rms"


def _sized(method: Method, length: int) -> dict[str, int]:
    """The option that gives a prompt its length; none for the length that the method has anyway."""
    if length == method.prompt_length:
        return {}
    return {"repeats": length} if method.one_vector else {"prompt_length": length}


def asked_tasks(
    declared: Task, kind: str, style: str | None, wording: Wording, templates: Sequence[str]
) -> dict[str, Task]:
    """The ways to put a task to a model of a kind, the default first, by the name of its style or by its template.

    Args:
        declared: as the user named or made it.
        kind: of backbone.
        style: the user's; None tries those of the kind, for a declared task in its own words.
        wording: the user's own words.
        templates: further templates of the user.

    Raises:
        SoftPromptError: a style or a template that the task cannot have.
    """
    plain = worded_for(declared, kind, style, wording)
    tasks = {plain.style if declared.name in TASKS else "as given": plain}
    # The models of the laboratory know words and no digits.
    has_styles = style is None and not wording and declared.name in TASKS and not declared.source.world
    for other in STYLES[kind] if has_styles and declared.style == "words" else ():
        try:
            tasks.setdefault(other, worded_for(declared, kind, other, wording))
        except SoftPromptError:
            continue
    for template in templates:
        tasks[template] = worded_for(declared, kind, style, dataclasses.replace(wording, template=template))
    return tasks
