"""A prompt that is served: checked against the frozen model once, with all that its requests have in common."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..backbones import AbstractBackbone, Reading, refuse_collisions
from ..errors import BadInput, ModelMismatch
from ..inference.asked import task_of
from ..inference.decoding import decoding, label_ids
from ..inference.rows import refuse_long_instruction, text_limit
from ..inference.scoring import Scoring
from ..prompts.prompt import LinearHead, SoftPrompt
from ..tasks import Source, Task

# Of a text that no task puts into words. What a model has no positions for is cut from it.
LONGEST_TEXT = 2048


@final
@dataclass(frozen=True)
class Asked:
    """What is common to all requests to prompts of one task, length and scoring.

    Args:
        task: how a text is put, and how it is answered.
        scoring: how label words are scored.
        writes: whether an answer is generated; otherwise label words are scored, or a linear head is applied.
        reading: the tokens of the label words; None where none are scored.
        limit: tokens of text that fit beside the prompt.
        behind: positions of the label words that are read behind each text.
    """

    task: Task
    scoring: Scoring
    writes: bool
    reading: Reading | None
    limit: int
    behind: int = 0


@final
@dataclass(frozen=True, eq=False)
class ServedPrompt:
    """A prompt under its name. It is never changed: a new version is another object.

    Args:
        name: under which requests ask for it; empty is the frozen model itself.
        prompt: the stored prompt; None where there is none.
        asked: what its requests have in common.
        version: the first digits of a hash of its numbers; a prompt that was replaced has another one.
    """

    name: str
    prompt: SoftPrompt | None
    asked: Asked
    version: str = ""

    @property
    def length(self) -> int:
        """Positions before the text."""
        return 0 if self.prompt is None else self.prompt.length

    def vectors(self, backbone: AbstractBackbone) -> Tensor:
        """The n vectors on the model's device, [n, e]."""
        if self.prompt is None:
            return torch.zeros(0, backbone.embedding_size, device=backbone.device)
        return self.prompt.expanded().to(backbone.device)

    def deep(self, backbone: AbstractBackbone) -> Tensor | None:
        """The vectors of the layers after the first, [k, n, e]; None for an ordinary prompt."""
        layers = None if self.prompt is None else self.prompt.expanded_deep()
        return None if layers is None else layers.to(backbone.device)

    @property
    def head(self) -> LinearHead | None:
        """The linear head of an encoder's prompt."""
        return None if self.prompt is None else self.prompt.head


# A text as it is, answered by more text: for the frozen model, and for prompts that record no task.
PLAIN = Task(
    name="text", source=Source(), template="{text}", answer="text", target="answer", cue="", max_length=LONGEST_TEXT
)


@final
class Admission:
    """Admits prompts to one frozen model.

    What prompts of one task share is computed once: ten thousand prompts of a task are admitted in a second.

    Args:
        backbone: the frozen model.
    """

    def __init__(self, backbone: AbstractBackbone):
        self.backbone = backbone
        self._identity = backbone.identity()
        self._asked: dict[tuple[Any, ...], Asked] = {}

    def admit(self, name: str, prompt: SoftPrompt) -> ServedPrompt:
        """The prompt, ready to be served.

        Raises:
            ModelMismatch: the prompt belongs to another model.
            BadInput: its task cannot be answered by this model.
        """
        self._check(prompt)
        return ServedPrompt(name, prompt, self._common(prompt), version_of(prompt))

    @functools.cached_property
    def frozen(self) -> ServedPrompt:
        """The frozen model, which continues a text.

        Raises:
            BadInput: the model generates nothing.
        """
        if self.backbone.kind == "encoder":
            raise BadInput(f"{self.backbone.name!r} is an encoder and generates nothing; name one of the prompts")
        limit = text_limit(self.backbone, 0, PLAIN)
        return ServedPrompt("", None, Asked(PLAIN, Scoring(), True, None, limit))

    def without(self, served: ServedPrompt) -> ServedPrompt:
        """The frozen model on the same task with the same template, for comparison.

        Raises:
            BadInput: a linear head, which answers nothing before it is trained.
        """
        if self.backbone.answers == "linear-head":
            raise BadInput("a linear head is trained with its prompt; the frozen model has none to compare with")
        # No prompt holds the opening of a row here.
        task = dataclasses.replace(served.asked.task, opening_ids=())
        scoring = dataclasses.replace(served.asked.scoring, calibration=None)
        limit = text_limit(self.backbone, 0, task)
        return ServedPrompt(
            served.name, None, dataclasses.replace(served.asked, task=task, scoring=scoring, limit=limit)
        )

    def _check(self, prompt: SoftPrompt) -> None:
        origin = prompt.provenance.backbone
        # The comparison of a hash that most prompts of a folder share; the rest is for what differs.
        ours = self._identity
        same = (origin.embedding_sha256, origin.embedding_size, origin.embedding_scale) == (
            ours.embedding_sha256, ours.embedding_size, ours.embedding_scale
        )  # fmt: skip
        if not same or prompt.deep is not None or prompt.provenance.answers != self.backbone.answers:
            self.backbone.check(prompt)
        head = self.backbone.answers == "linear-head"
        if head != (prompt.head is not None):
            has, needs = ("has no linear head", "one") if head else ("has a linear head", "none")
            raise ModelMismatch(f"this prompt {has}, and {self.backbone.name!r} answers with {needs}")
        if prompt.head is not None and prompt.head.weight.shape[1] != self.backbone.hidden_size:
            raise ModelMismatch(
                f"the head of this prompt reads states of width {prompt.head.weight.shape[1]}, those of "
                f"{self.backbone.name!r} have {self.backbone.hidden_size}; a prompt works only with its own model"
            )

    def _common(self, prompt: SoftPrompt) -> Asked:
        provenance = prompt.provenance
        classes = None if prompt.head is None else len(prompt.head.bias)
        key = (prompt.length, classes, _text(provenance.task), _text(provenance.scoring))
        if key not in self._asked:
            self._asked[key] = self._ask(prompt, classes)
        return self._asked[key]

    def _ask(self, prompt: SoftPrompt, classes: int | None) -> Asked:
        backbone, scoring = self.backbone, Scoring.of(prompt)
        task = PLAIN if prompt.provenance.task is None and backbone.kind != "encoder" else task_of(prompt)
        limit = text_limit(backbone, prompt.length, task)
        refuse_long_instruction(backbone, task, limit)
        if backbone.answers == "linear-head":
            needed = len(task.labels) if task.answer == "label" else 1
            if task.answer == "text" or classes != needed:
                raise BadInput(f"the head of this prompt has {classes} outputs, its task {task.name!r} needs {needed}")
            return Asked(task, scoring, False, None, limit)
        if decoding(task, backbone, scoring.decode) == "generate":
            return Asked(task, scoring, True, None, limit)
        labels = label_ids(backbone, task, end=scoring.end)
        if scoring.normalize == "first":
            refuse_collisions(labels, backbone.tokenizer)
        reading = Reading.of(labels, scoring.normalize)
        return Asked(task, scoring, False, reading, limit, backbone.read_positions(reading))


def version_of(prompt: SoftPrompt) -> str:
    """The first twelve digits of a hash of the prompt's numbers, its task and its scoring."""
    digest = hashlib.sha256(
        f"{prompt.repeats} {_text(prompt.provenance.task)} {_text(prompt.provenance.scoring)}".encode()
    )
    for tensor in prompt.tensors().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _text(values: Mapping[str, Any] | None) -> str:
    return json.dumps(values, sort_keys=True)
