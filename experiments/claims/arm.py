"""The settings that are compared: a method with its options, and the same at a learning rate."""

from dataclasses import dataclass
from typing import Any

from softprompt.prompts.methods import METHODS
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec

from .design import PAPER_RATE, Design

TITLES = {
    "prompt-tuning": "prompt tuning",
    "p-tuning": "P-Tuning",
    "residual": "residual",
    "ept": "EPT",
    "ept-star": "EPT\\*",
    "polar": "one vector",
}


@dataclass(frozen=True)
class Setting:
    """A method and the options in which it differs from its presets."""

    method: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Name in the results: "ept hidden=10"."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.options)])

    @property
    def title(self) -> str:
        """Name on the page, in Markdown."""
        return " ".join([TITLES.get(self.method, self.method), *(f"{key}={value}" for key, value in self.options)])

    def at(self, lr: float) -> "Arm":
        """The setting at a learning rate."""
        return Arm(self, lr)

    @property
    def at_paper(self) -> "Arm":
        """The setting at the papers' learning rate."""
        return Arm(self, PAPER_RATE)


@dataclass(frozen=True)
class Arm:
    """A setting at a learning rate, in raw numbers; a direction at a fixed norm in units of the embeddings."""

    setting: Setting
    lr: float

    @property
    def name(self) -> str:
        """Name in the results: "ept hidden=10 lr=0.3"."""
        return f"{self.setting.name} lr={self.lr:g}"

    @property
    def title(self) -> str:
        """Name on the page, in Markdown."""
        return f"{self.setting.title}, lr {self.lr:g}"

    def prompt(self, design: Design, seed: int) -> PromptSettings:
        """The prompt with this seed. A decoder's does not begin as words: the papers' do not."""
        method, options = self.setting.method, dict(self.setting.options)
        # The direction at a fixed norm has no raw numbers.
        units = "auto" if METHODS[method].is_direction else design.units
        return PromptSettings(
            method=method, options=options, units=units, lr=self.lr, init="uniform", seeds=Seeds.all(seed)
        )

    def spec(self, design: Design, task: str, seed: int) -> RunSpec:
        """The run of one task and seed. The last step is scored; validation chooses nothing."""
        settings = TrainSettings(steps=design.steps, eval_every=design.steps, batch_size=design.batch_size)
        return RunSpec(task=design.task(task), model=design.model, prompt=self.prompt(design, seed), settings=settings)


PROMPT_TUNING, P_TUNING, RESIDUAL = Setting("prompt-tuning"), Setting("p-tuning"), Setting("residual")
EPT, EPT_STAR = Setting("ept"), Setting("ept-star")
