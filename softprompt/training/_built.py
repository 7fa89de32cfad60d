"""What a run trains, as it is at the beginning."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..baselines import TrainableWeights
from ..errors import BadInput
from ..inference.rows import text_limit
from ..prompts.contract import AbstractTrainable
from ..prompts.initializers import uniform
from ..prompts.methods import Method
from ..prompts.standardization import Standardization
from ..prompts.trainable import StatesOf, TrainablePrompt
from ..prompts.units import WordScale
from ..settings import PromptSettings
from ..tasks import Task
from ._numbers import standardization
from ._prepare import training_rows
from ._resolved import resolved
from ._run_data import RunData
from .beginnings.beginning import Beginning
from .beginnings.sources import source_vectors
from .beginnings.vectors import deeper, initializer, unit_of

log = logging.getLogger("softprompt")


def build_prompts(
    run_data: RunData, shared: Mapping[int, nn.Module] | None = None, *, is_begun: bool = False
) -> list[AbstractTrainable]:
    """What is trained, as it is at the beginning, each with its restarts behind it; nothing is written.

    Args:
        run_data: the run.
        shared: what prompts learned from other tasks, by their numbers in the plan.
        is_begun: whether a checkpoint replaces all numbers, so that vectors that were given are not read again.

    Raises:
        SoftPromptError: an initialiser or a method that cannot work here, or restarts that all begin alike.
    """
    prompts = _Prompts.of(run_data, is_begun)
    built: list[AbstractTrainable] = []
    for number, (prompt, ways) in enumerate(
        zip(map(resolved, run_data.plan.prompts), run_data.beginnings, strict=True)
    ):
        numbers = standardization(run_data, training_rows(run_data, prompt))
        if Method.of(prompt).weights:
            sources = _placeholders(prompt, run_data) if is_begun else source_vectors(prompt, run_data.backbone)
            candidates = _weights(prompt, ways, run_data, numbers, sources, (shared or {}).get(number))
        else:
            candidates = prompts.candidates(prompt, ways, numbers)
        _refuse_alike(prompt, candidates)
        built += candidates
    tell_reference_passes(built, run_data.backbone)
    return built


@final
@dataclass(frozen=True)
class _Prompts:
    """What the prompts of a run have in common: word vectors with their size, and that of the states of deep ones."""

    run_data: RunData
    is_begun: bool
    table: Tensor
    words: WordScale
    states: Sequence[WordScale]

    @classmethod
    def of(cls, run_data: RunData, is_begun: bool) -> "_Prompts":
        """Of a run, whose numbers a checkpoint may replace; states are measured where a prompt is deep."""
        table = run_data.backbone.word_vectors
        states = run_data.backbone.state_scales() if any(prompt.deep for prompt in run_data.plan.prompts) else []
        return cls(run_data, is_begun, table, WordScale.of(table), states)

    def candidates(
        self, prompt: PromptSettings, ways: Sequence[Beginning], numbers: Standardization | None
    ) -> list[AbstractTrainable]:
        """A prompt as each of its restarts begins."""
        m, shape = Method.of(prompt).m, head_shape(self.run_data.backbone, self.run_data.task)
        if self.is_begun:
            # What they began as may be gone.
            first, behind = [uniform()] * len(ways), []
        else:
            behind = deeper(prompt, self.run_data, m, self.states)
            first = [initializer(way.settings.initial, self.run_data, m, unit_of(prompt, self.words)) for way in ways]
        return [
            TrainablePrompt.build(
                way.settings, draw, self.table, shape, self.words, self.states, behind, numbers,
                base=way.base(self.run_data.backbone), method=way.method, states_of=self._states_of(way),
            )
            for way, draw in zip(ways, first, strict=True)
        ]  # fmt: skip

    def _states_of(self, way: Beginning) -> StatesOf | None:
        """Where a deep prompt begins as the ordinary one; words ask for it by name, and a model may have to refuse."""
        backbone = self.run_data.backbone
        return backbone.prompt_states if way.ids or backbone.kind == "decoder" else None


def _weights(
    prompt: PromptSettings,
    ways: Sequence[Beginning],
    run_data: RunData,
    numbers: Standardization | None,
    sources: Sequence[Tensor],
    shared: nn.Module | None,
) -> list[AbstractTrainable]:
    """What is trained in place of a prompt, as each of its restarts begins."""
    backbone = run_data.backbone
    shape = head_shape(backbone, run_data.task)
    longest = text_limit(backbone, Method.of(prompt).prompt_length, run_data.task)
    return [TrainableWeights.build(way.settings, backbone, shape, numbers, sources, longest, shared) for way in ways]


def _placeholders(prompt: PromptSettings, run_data: RunData) -> list[Tensor]:
    """Zeros in the shape of the source prompts."""
    n, e = Method.of(prompt).prompt_length, run_data.backbone.embedding_size
    return [torch.zeros(n, e, device=run_data.backbone.device) for _ in prompt.sources]


def head_shape(backbone: AbstractBackbone, task: Task) -> tuple[int, int] | None:
    """Shape [c, d] of a linear head for the task, or None where the backbone answers in tokens."""
    if backbone.answers != "linear-head":
        return None
    return (len(task.labels) if task.answer == "label" else 1, backbone.hidden_size)


def tell_reference_passes(built: Sequence[AbstractTrainable], backbone: AbstractBackbone) -> None:
    """Say once that weights are trained without the engine that the frozen model was loaded with."""
    methods = dict.fromkeys(repr(trainable.method.name) for trainable in built if trainable.method.weights)
    if methods and backbone.engine != "reference":
        log.warning(
            "%s: %s changes what the model computes, so its passes are those of transformers, not of the %s engine",
            backbone.name, ", ".join(methods), backbone.engine,
        )  # fmt: skip


def _refuse_alike(settings: PromptSettings, candidates: Sequence[AbstractTrainable]) -> None:
    """Refuse restarts of a prompt in which nothing is random: they would cost their time and choose nothing."""
    first = _numbers_of(candidates[0])
    for other in candidates[1:]:
        if all(torch.equal(first[name], value) for name, value in _numbers_of(other).items()):
            raise alike(settings)


def _numbers_of(candidate: AbstractTrainable) -> dict[str, torch.Tensor]:
    """The parameters of a candidate, and of a prompt the vectors that they stand for."""
    vectors = {"": candidate.folded()} if isinstance(candidate, TrainablePrompt) else {}
    return {**candidate.state_dict(), **vectors}


def alike(settings: PromptSettings) -> BadInput:
    """The refusal of restarts that all begin with the same numbers."""
    what = f"--restarts={settings.restarts} of {settings.method!r}"
    if Method.of(settings).weights:
        return BadInput(
            f"{what} all begin with the same numbers, because nothing of that method is random; leave restarts out, or "
            "take a method that begins at random, as lora"
        )
    return BadInput(
        f"{what} with --init={settings.init!r} all begin with the same numbers; take an initialisation that is random, "
        "as uniform or vocabulary, or no restarts"
    )
