"""The soft prompt as it is stored and used: its vectors, how often they are repeated, and their provenance.

A stored prompt has no reparameterisation. Training folds the reparameterisation into the vectors.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import softprompt

from ..checks import refuse_no_scale
from ..documents import NOT_STORED
from ..errors import BadInput


@dataclass(frozen=True)
class BackboneIdentity:
    """Identifies the frozen model that a prompt belongs to.

    Args:
        name: hub id or folder, as the user gave it.
        kind: "encoder-decoder", "encoder" or "decoder".
        embedding_size: width e of the word embeddings, which may differ from the hidden size.
        embedding_sha256: hash of the checkpoint's word embedding table in bfloat16, so that the hash does not depend
            on the precision in which the checkpoint is loaded; None where it is not known (an imported prompt).
        revision: commit on the hub, if the user gave one.
        embedding_scale: factor on the checkpoint's word embeddings. The outputs of the model do not depend on it, and
            the hash is taken before it is applied.
        states_scale: whether the factor also multiplies the states between the layers, so that it also multiplies
            deep prompts; None where that is not known.

    Raises:
        BadInput: the scale is not positive and finite.
    """

    name: str
    kind: str
    embedding_size: int
    embedding_sha256: str | None = None
    revision: str | None = None
    embedding_scale: float = 1.0
    states_scale: bool | None = None

    def __post_init__(self) -> None:
        """Refuse a scale that is not positive and finite."""
        refuse_no_scale(self.embedding_scale)


@dataclass(frozen=True)
class LinearHead:
    """Class scores `W h + b` of a pooled text state h. The head is trained and stored with the prompt of an encoder."""

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]

    def __call__(self, states: Float[Tensor, "*b d"]) -> Float[Tensor, "*b c"]:
        """Return the class scores W h + b of pooled states, in the head's precision and on their device."""
        weight, bias = self.weight.to(states.device), self.bias.to(states.device)
        return nn.functional.linear(states.to(weight.dtype), weight, bias)

    @property
    def count(self) -> int:
        """Number of parameters of the head. Tables never add it to the parameters of the prompt."""
        return self.weight.numel() + self.bias.numel()


@dataclass(frozen=True)
class Provenance:
    """How a prompt was made, as plain values that JSON can hold.

    Args:
        method: a name in METHODS, or "imported".
        backbone: the frozen model that the prompt belongs to.
        answers: how the backbone answers: "tokens", "chat", "label-words" or "linear-head".
        task: the declaration of the task (`Task.to_json`), or None if it is not known.
        metrics: scores of the stored vectors by split: {"validation": {...}, "test": {...}}.
        seeds: seeds by purpose: initialization, order, draw, noise.
        training: learning rate, steps, best step, trainable parameters and the like.
        versions: versions of softprompt, torch and transformers.
        scoring: how its label words are scored, where it is not by their tokens' sum with the end of sequence.
        is_foreign: whether the prompt was read from a file outside of a run, so that anyone may have written what it
            says. It is not stored.
    """

    method: str
    backbone: BackboneIdentity
    answers: str = "tokens"
    task: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    scoring: Mapping[str, Any] = field(default_factory=dict)
    is_foreign: bool = field(default=False, compare=False, metadata=NOT_STORED)

    def to_json(self) -> dict[str, Any]:
        """What is stored of it, as plain values."""
        values = dataclasses.asdict(self)
        del values["is_foreign"]
        return values


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Vectors before the input of a frozen backbone: `[v_1 .. v_m]` repeated `repeats` times, then the text.

    EPT* stores one vector and repeats it ten times (Explosive Prompt Tuning, section 3.3). A prompt of length 0 has a
    linear head only. A deep prompt has m more vectors for each layer after the first. They replace the states at the
    positions of the prompt (P-tuning v2, Liu et al., 2022, arXiv:2110.07602).

    Args:
        vectors: the m vectors in float32, whatever precision the backbone computes in.
        repeats: how often the m vectors are repeated.
        provenance: method, backbone, task, scores, seeds and versions.
        head: class scores for an encoder without label words.
        deep: the m vectors of each of the layers 2, 3 ..., repeated in the same way; None for an ordinary prompt.

    Raises:
        BadInput: a vector is not finite or not float32, or `repeats` is below 1.
    """

    vectors: Float[Tensor, "m e"]
    provenance: Provenance
    repeats: int = 1
    head: LinearHead | None = None
    deep: Float[Tensor, "k m e"] | None = None

    def __post_init__(self) -> None:
        """Refuse vectors that no backbone could use."""
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
        """Prompt length n = m x repeats: the number of positions before the text."""
        return self.vectors.shape[0] * self.repeats

    @property
    def stored(self) -> int:
        """Number of stored parameters of the prompt: m x e for each layer that it enters."""
        return self.vectors.numel() * self.layers

    @property
    def layers(self) -> int:
        """Number of layers that the prompt enters: 1, or all layers of the backbone if it is deep."""
        return 1 if self.deep is None else 1 + len(self.deep)

    def expanded(self) -> Float[Tensor, "n e"]:
        """Return the n vectors as the backbone sees them."""
        return self.vectors.repeat(self.repeats, 1)

    def expanded_deep(self) -> Float[Tensor, "k n e"] | None:
        """Return the n vectors of each layer after the first, or None for an ordinary prompt."""
        return None if self.deep is None else self.deep.repeat(1, self.repeats, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the prompt and its head by the names under which they are stored."""
        head = {"head.weight": self.head.weight, "head.bias": self.head.bias} if self.head else {}
        deep = {} if self.deep is None else {"deep": self.deep}
        return {"vectors": self.vectors, **deep, **head}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], provenance: Provenance, repeats: int) -> "SoftPrompt":
        """Return the prompt whose `tensors` these are."""
        head = LinearHead(tensors["head.weight"], tensors["head.bias"]) if "head.weight" in tensors else None
        return cls(tensors["vectors"], provenance, repeats, head, tensors.get("deep"))

    def at_scale(self, embedding_scale: float = 1.0) -> "SoftPrompt":
        """Return the same prompt for the same backbone with its word embeddings at another scale.

        The vectors are multiplied by `embedding_scale` / `backbone.embedding_scale`. Deep vectors are multiplied too
        where the states between the layers grow with the embeddings (T5, GPT-2, Llama; not BERT, whose layers end in
        a norm). The answers stay the same. The conversion is exact for powers of two.

        Args:
            embedding_scale: factor on the checkpoint's word embeddings; 1 is what `from_pretrained` gives.

        Raises:
            BadInput: the scale is not positive and finite, or the vectors overflow at it; or the prompt is deep, and
                it is not known whether the states of its backbone grow.
        """
        backbone = self.provenance.backbone
        if embedding_scale == backbone.embedding_scale:
            return self
        rescaled = dataclasses.replace(backbone, embedding_scale=float(embedding_scale))
        if self.deep is not None and backbone.states_scale is None:
            raise BadInput(
                f"whether the states of {backbone.name!r} grow with its embeddings is not known, so its deep prompts "
                f"stay at embedding scale {backbone.embedding_scale:g}"
            )

        def multiplied(vectors: Tensor) -> Tensor:
            return (vectors.double() * rescaled.embedding_scale / backbone.embedding_scale).float()

        provenance = dataclasses.replace(self.provenance, backbone=rescaled)
        prompt = dataclasses.replace(self, vectors=multiplied(self.vectors), provenance=provenance)
        if self.deep is None or not backbone.states_scale:
            return prompt
        return dataclasses.replace(prompt, deep=multiplied(self.deep))

    # The methods below are shorthands for public functions, whose modules lie in layers above this one.

    @classmethod
    def load(cls, source: "str | Path") -> "SoftPrompt":
        """Load a prompt from its folder, a run of one prompt, or `user/name` on the hub (`softprompt.load_prompt`)."""
        return softprompt.load_prompt(source)

    def save(self, folder: "str | Path") -> Path:
        """Write the prompt into a new folder, atomically (`softprompt.save_prompt`)."""
        return softprompt.save_prompt(self, folder)

    def push_to_hub(self, repo: str, *, private: bool = False) -> str:
        """Upload the prompt to `user/name` on the hub and return the URL of the commit (`softprompt.push_prompt`)."""
        return softprompt.push_prompt(self, repo, private=private)

    def attach(self, model: nn.Module, *, head: bool = False) -> nn.Module:
        """Put this prompt, and its head if asked, before a loaded Hugging Face model (`softprompt.attach`)."""
        return softprompt.attach(self, model, head=head)

    def predict(self, inputs: Any, **options: Any) -> list[dict[str, Any]]:
        """Answer texts or rows of columns, with {text, label, scores} or {text, output} each (`softprompt.predict`)."""
        return softprompt.predict(self, inputs, **options)
