"""Measurements of a trained prompt beyond its score: one function for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from softprompt.settings import TrainSettings

from .arm import Arm
from .design import Design

if TYPE_CHECKING:
    from softprompt.backbones import AbstractBackbone
    from softprompt.data import Examples
    from softprompt.prompts.prompt import SoftPrompt

Split = Literal["validation", "test"]
# Texts over which the drift of a prompt is averaged.
TEXTS = 64
DIGITS = 4
MEASURED = ("norm", "moved", "kept", "varies")


@dataclass
class Bench:
    """A frozen model and the rows that prompts are measured on; both are made once and kept.

    Args:
        design: of the study.
        device: as in `load_backbone`.
    """

    design: Design
    device: str = "auto"

    def __post_init__(self) -> None:
        """Nothing is read yet."""
        self.rows: dict[tuple[str, str], Examples] = {}

    @cached_property
    def backbone(self) -> "AbstractBackbone":
        """The frozen model."""
        from softprompt.backbones import load_backbone

        return load_backbone(self.design.model, device=self.device)

    def examples(self, task: str, split: Split = "test") -> "Examples":
        """The rows of a task's split, for prompts of ten vectors or fewer."""
        from softprompt.data import load_rows, split_rows
        from softprompt.inference.rows import examples_for

        if (task, split) not in self.rows:
            declared = self.design.task(task)
            rows = getattr(split_rows(declared, load_rows(declared)), split)
            self.rows[task, split] = examples_for(self.backbone, declared, rows, max(self.design.repeats))
        return self.rows[task, split]

    def score(self, prompt: "SoftPrompt", task: str, split: Split = "test") -> float:
        """The prompt's score on the rows of a task's split, answered as in training; without one, as one would be."""
        from softprompt.inference.answers import answer
        from softprompt.inference.report import Report
        from softprompt.inference.scoring import Scoring
        from softprompt.inference.scoring_rule import scoring_for
        from softprompt.prompts.batch import PromptBatch

        declared, prompt_batch = self.design.task(task), PromptBatch.of(prompt, device=self.backbone.device)
        examples = self.examples(task, split)
        is_trained = bool(prompt.provenance.scoring)
        scoring = Scoring.of(prompt) if is_trained else scoring_for(TrainSettings(), declared, self.backbone)
        answers = answer(self.backbone, prompt_batch, examples, declared, scoring=scoring, batch_size=100)
        return Report.from_answers(declared, examples, answers).metrics["score"]


def cosines(bench: Bench, prompt: "SoftPrompt", task: str, arm: Arm, seed: int) -> dict[str, Any]:
    """Mean cosine between the prompt's vectors, before the first step and trained; and both matrices."""
    from softprompt.analysis.geometry import cosines as matrix
    from softprompt.analysis.geometry import mean_cosine
    from softprompt.prompts.initializers import uniform
    from softprompt.prompts.methods import Method
    from softprompt.prompts.trainable import TrainablePrompt
    from softprompt.prompts.units import WordScale

    table = bench.backbone.word_vectors
    prompt_settings = arm.prompt(bench.design, seed)
    settings = Method.of(prompt_settings).resolved(prompt_settings)
    start = TrainablePrompt.build(settings, uniform(), table, None, WordScale.of(table)).folded().cpu()
    measured: dict[str, Any] = {"start": _number(mean_cosine(start)), "end": _number(mean_cosine(prompt.vectors))}
    # Only the matrices of one run of each setting are kept, because all of them would fill most of the file.
    if (task, seed) == (bench.design.tasks[0], bench.design.seed_numbers[0]):
        for name, vectors in (("start matrix", start), ("end matrix", prompt.vectors)):
            measured[name] = [[round(value, 2) for value in row] for row in matrix(vectors).tolist()]
    return measured


def copies(bench: Bench, prompt: "SoftPrompt", task: str, arm: Arm, seed: int) -> dict[str, Any]:
    """Test scores of the whole prompt and of one of its vectors, repeated to each length; and the vector's place."""
    from softprompt.analysis.analyses import broadcast

    found = broadcast(prompt, bench.design.repeats, lambda alone, split: bench.score(alone, task, split))
    scores = {str(n): round(value, DIGITS) for n, value in zip(found["lengths"], found["scores"], strict=True)}
    rounded = {name: round(found[name], DIGITS) for name in ("validation", "whole")}
    return {"vector": found["vector"], **rounded, **scores}


def drifts(bench: Bench, prompt: "SoftPrompt", task: str, arm: Arm, seed: int) -> list[dict[str, Any]]:
    """The states at the prompt's positions after each layer of the encoder."""
    from softprompt.analysis.drift import drift

    examples = bench.examples(task)
    texts = examples.select(list(range(min(TEXTS, len(examples)))))
    layers = drift(bench.backbone, prompt, texts)
    return [{"layer": layer.layer, **{name: _short(getattr(layer, name)) for name in MEASURED}} for layer in layers]


Probe = Callable[[Bench, "SoftPrompt", str, Arm, int], Any]
PROBES: Mapping[str, Probe] = {"cosines": cosines, "copies": copies, "drift": drifts}


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _number(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
