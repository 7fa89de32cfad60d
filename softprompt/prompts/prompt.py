"""The soft prompt as it is stored and used: vectors, how often they are repeated, and where they come from.

Nothing after training sees a reparameterisation: it has been folded into these vectors.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import softprompt

from ..errors import BadInput


def refuse_no_scale(scale: float) -> None:
    """Refuse a factor for word embeddings that is none.

    Raises:
        BadInput: zero, a negative number, infinity or NaN.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise BadInput(f"--embedding-scale must be a positive, finite number, not {scale:g}; 1 is the checkpoint's own")


@dataclass(frozen=True)
class BackboneIdentity:
    """Which frozen model a prompt belongs to.

    Args:
        name: hub id or folder, as the user gave it.
        kind: "encoder-decoder", "encoder" or "decoder".
        embedding_size: width e of the word embeddings (not always the hidden size).
        embedding_sha256: hash of the word embedding table in bfloat16, so that the same checkpoint loaded in
            another precision is the same model; None where it is not known (an imported prompt).
        revision: commit on the hub, if one was given.
        embedding_scale: what the checkpoint's word embeddings are multiplied by, what the model computes unchanged;
            the hash is that of the checkpoint's own.
        states_scale: whether the states between its layers are multiplied too, so that a deep prompt has to be; None
            where it is not known.

    Raises:
        BadInput: a scale that is not positive and finite.
    """

    name: str
    kind: str
    embedding_size: int
    embedding_sha256: str | None = None
    revision: str | None = None
    embedding_scale: float = 1.0
    states_scale: bool | None = None

    def __post_init__(self) -> None:
        """Refuse a scale by which no prompt could be divided."""
        refuse_no_scale(self.embedding_scale)


@dataclass(frozen=True)
class LinearHead:
    """Class scores `W h + b` of a pooled text state h, trained and stored beside an encoder's prompt."""

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]

    @property
    def count(self) -> int:
        """Numbers in the head; shown in a column of their own, never added to the prompt's."""
        return self.weight.numel() + self.bias.numel()


@dataclass(frozen=True)
class Provenance:
    """Everything about a prompt but its numbers: plain values that JSON can hold.

    Args:
        method: name in METHODS, or "imported".
        backbone: the frozen model it belongs to.
        answers: how the backbone answers: "tokens", "chat", "label-words" or "linear-head".
        task: the task's declaration (`Task.to_json`), or None if it is not known.
        metrics: scores of the stored vectors, by split: {"validation": {...}, "test": {...}}.
        seeds: by purpose: initialization, order, draw, noise.
        training: learning rate, steps, best step, trainable parameters and the like.
        versions: of softprompt, torch and transformers.
    """

    method: str
    backbone: BackboneIdentity
    answers: str = "tokens"
    task: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Vectors put before the input of a frozen backbone: `[v_1 .. v_m]` repeated `repeats` times, then the text.

    EPT* stores one vector and repeats it ten times (Explosive Prompt Tuning, section 3.3). A prompt of length 0
    is a head alone. A deep prompt has as many vectors for each layer after the first, which take the place of the
    states at the prompt's positions (P-tuning v2, Liu et al., 2022, arXiv:2110.07602).

    Args:
        vectors: in float32, whatever the backbone computes in.
        repeats: how often the vectors follow each other.
        provenance: method, backbone, task, scores, seeds, versions.
        head: class scores for an encoder without label words.
        deep: vectors of layers 2, 3 ... of the backbone, repeated likewise; None for an ordinary prompt.

    Raises:
        BadInput: vectors that are not finite or not float32, or repeats below 1.
    """

    vectors: Float[Tensor, "m e"]
    provenance: Provenance
    repeats: int = 1
    head: LinearHead | None = None
    deep: Float[Tensor, "k m e"] | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that no backbone could use."""
        numbers = [self.vectors] if self.deep is None else [self.vectors, self.deep]
        for vectors in numbers:
            if vectors.dtype != torch.float32:
                raise BadInput(f"a soft prompt is float32, these vectors are {vectors.dtype}; convert them first")
        if not all(torch.isfinite(vectors).all() for vectors in numbers):
            raise BadInput("these prompt vectors hold NaN or infinity; such a prompt would answer nonsense")
        if self.repeats < 1:
            raise BadInput(f"a prompt is repeated at least once, not {self.repeats} times")

    @property
    def length(self) -> int:
        """Prompt length n = m x repeats: the positions it takes before the text."""
        return self.vectors.shape[0] * self.repeats

    @property
    def stored(self) -> int:
        """Numbers stored for the prompt: m x e, in each layer that it enters."""
        return self.vectors.numel() * self.layers

    @property
    def layers(self) -> int:
        """Layers that it enters: 1, or all of the backbone's if it is deep."""
        return 1 if self.deep is None else 1 + len(self.deep)

    def expanded(self) -> Float[Tensor, "n e"]:
        """The n vectors as the backbone sees them."""
        return self.vectors.repeat(self.repeats, 1)

    def expanded_deep(self) -> Float[Tensor, "k n e"] | None:
        """The n vectors of each layer after the first; None for an ordinary prompt."""
        return None if self.deep is None else self.deep.repeat(1, self.repeats, 1)

    def at_scale(self, embedding_scale: float = 1.0) -> "SoftPrompt":
        """The same prompt for the same backbone with its word embeddings at another scale.

        Vectors times `embedding_scale` over the backbone's own, a deep prompt's too where the states between layers
        grow with the embeddings (T5, GPT-2, Llama; not in BERT, whose layers end in a norm). Answers are the same.
        Exact for powers of two.

        Args:
            embedding_scale: factor on the checkpoint's own embeddings; 1 is what `from_pretrained` gives.

        Raises:
            BadInput: a scale that is not positive and finite, or at which the vectors overflow; a deep prompt of a
                backbone of which it is not known whether its states grow.
        """
        backbone = self.provenance.backbone
        if embedding_scale == backbone.embedding_scale:
            return self
        there = dataclasses.replace(backbone, embedding_scale=float(embedding_scale))
        if self.deep is not None and backbone.states_scale is None:
            raise BadInput(
                f"whether the states of {backbone.name!r} grow with its embeddings is not known, so its deep prompts "
                f"stay at embedding scale {backbone.embedding_scale:g}"
            )

        def multiplied(vectors: Tensor) -> Tensor:
            return (vectors.double() * there.embedding_scale / backbone.embedding_scale).float()

        provenance = dataclasses.replace(self.provenance, backbone=there)
        moved = dataclasses.replace(self, vectors=multiplied(self.vectors), provenance=provenance)
        if self.deep is None or not backbone.states_scale:
            return moved
        return dataclasses.replace(moved, deep=multiplied(self.deep))

    # The methods below are short for public functions, which live above this module.

    @classmethod
    def load(cls, source: "str | Path") -> "SoftPrompt":
        """A stored prompt: its folder, a run with one prompt, or `user/name` on the hub (`softprompt.load_prompt`)."""
        return softprompt.load_prompt(source)

    def save(self, folder: "str | Path") -> Path:
        """Write the prompt into a new folder, atomically (`softprompt.save_prompt`)."""
        return softprompt.save_prompt(self, folder)

    def push_to_hub(self, repo: str, *, private: bool = False) -> str:
        """Upload to `user/name` on the hub; the address of the commit (`softprompt.push_prompt`)."""
        return softprompt.push_prompt(self, repo, private=private)

    def attach(self, model: nn.Module) -> nn.Module:
        """A loaded Hugging Face model with this prompt before its input (`softprompt.attach`)."""
        return softprompt.attach(self, model)

    def predict(self, inputs: Any, **options: Any) -> list[dict[str, Any]]:
        """Answers for texts or rows of columns: {text, label, scores} or {text, output} each (`softprompt.predict`)."""
        return softprompt.predict(self, inputs, **options)
