"""The input of a backbone: a batch of prompts, and a batch of text rows of which each uses one of these prompts."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .compiled import CompiledPrefix
from .prompt import LinearHead, SoftPrompt

# The values of `TextBatch.parts` for tokens outside the columns; the columns are numbered from 1.
TEMPLATE, SPECIAL, UNKNOWN = 0, -1, -2


@dataclass(frozen=True)
class PromptBatch:
    """p prompts of possibly different lengths, padded on the left so that each ends next to the text.

    Args:
        vectors: prompt vectors, padded with zeros on the left up to the length n of the longest prompt.
        mask: True where a position belongs to the prompt, False where it is padding.
        head_weight: the weights of one linear head per prompt, or None where the backbone answers in tokens.
        head_bias: the biases of these heads, or None.
        deep: vectors that enter the k layers after the first, padded in the same way; None where no prompt is deep.
        is_deep: True for each deep prompt; the other prompts enter the first layer only.
        compiled: for each prompt its keys and values, or None where they are not known. Passes that can read them
            without gradients do so; the others compute them from the vectors, which are the same prompt.
    """

    vectors: Float[Tensor, "p n e"]
    mask: Bool[Tensor, "p n"]
    head_weight: Float[Tensor, "p c d"] | None = None
    head_bias: Float[Tensor, "p c"] | None = None
    deep: Float[Tensor, "p k n e"] | None = None
    is_deep: Bool[Tensor, " p"] | None = None
    compiled: tuple[CompiledPrefix | None, ...] | None = None

    @classmethod
    def stack(
        cls, prompts: Sequence[Tensor], heads: Sequence[LinearHead] = (), deep: Sequence[Tensor | None] = ()
    ) -> "PromptBatch":
        """Batch the given prompts. Gradients flow back into each of them.

        Args:
            prompts: the vectors of each prompt, [n_i, e].
            heads: one linear head per prompt, or none.
            deep: for each prompt the vectors of the layers after the first, [k, n_i, e], or None if it is not deep.
        """
        longest = max(prompt.shape[0] for prompt in prompts)
        prompt_batch = cls._of_first_layers(prompts, longest, heads)
        if not (deep_vectors := [vectors for vectors in deep if vectors is not None]):
            return prompt_batch
        layers, _, e = deep_vectors[0].shape
        empty = deep_vectors[0].new_zeros(layers, longest, e)
        padded = [empty if v is None else torch.nn.functional.pad(v, (0, 0, longest - v.shape[1], 0)) for v in deep]
        is_deep = torch.tensor([v is not None for v in deep], device=prompt_batch.mask.device)
        return dataclasses.replace(prompt_batch, deep=torch.stack(padded), is_deep=is_deep)

    @classmethod
    def _of_first_layers(cls, prompts: Sequence[Tensor], longest: int, heads: Sequence[LinearHead]) -> "PromptBatch":
        vectors = torch.stack([torch.nn.functional.pad(v, (0, 0, longest - v.shape[0], 0)) for v in prompts])
        lengths = torch.tensor([v.shape[0] for v in prompts], device=vectors.device)
        mask = torch.arange(longest, device=vectors.device) >= longest - lengths[:, None]
        if not heads:
            return cls(vectors, mask)
        return cls(vectors, mask, torch.stack([h.weight for h in heads]), torch.stack([h.bias for h in heads]))

    @classmethod
    def of(cls, *prompts: SoftPrompt, device: "torch.device | str" = "cpu") -> "PromptBatch":
        """Batch stored prompts on the backbone's device."""
        heads = [LinearHead(h.weight.to(device), h.bias.to(device)) for p in prompts if (h := p.head)]
        deep = [None if (layers := p.expanded_deep()) is None else layers.to(device) for p in prompts]
        return cls.stack([p.expanded().to(device) for p in prompts], heads, deep)


@dataclass(frozen=True)
class TextBatch:
    """b text rows for one pass: their tokens, the prompt that each row uses, and the expected answers.

    Args:
        ids: token ids, padded on the left or on the right.
        mask: True where a position belongs to the text, False where it is padding.
        owner: for each row, the index of its prompt in the batch of prompts.
        targets: token ids at the label positions (class ids for a linear head), and -100 at all others; floats
            where a linear head answers with a number; None for inference.
        parts: the part of the row that each token comes from: a column (1, 2 ...), the template (TEMPLATE), a
            special token (SPECIAL) or UNKNOWN.
        text_delta: is added to the embedded text; None adds nothing.
        prompt_delta: is added to the prompt of each row before the prompt is cast to the model's precision; None
            adds nothing.
        classes: class ids of the right labels; None where the rows have none.
    """

    ids: Int[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    owner: Int[Tensor, " b"]
    targets: Int[Tensor, "b l"] | Float[Tensor, "b 1"] | None = None
    parts: Int[Tensor, "b t"] | None = None
    text_delta: Float[Tensor, "b t e"] | None = None
    prompt_delta: Float[Tensor, "b n e"] | None = None
    classes: Int[Tensor, " b"] | None = None

    def to(self, device: "torch.device | str") -> "TextBatch":
        """Return the same rows on another device."""
        return self._map(lambda values: values.to(device))

    def select(self, rows: "Int[Tensor, ' k'] | Bool[Tensor, ' b']") -> "TextBatch":
        """Return some of the rows. The number of columns stays the same."""
        return self._map(lambda values: values[rows])

    def trimmed(self) -> "TextBatch":
        """Return the same rows without the trailing columns that are padding in every row."""
        per_position = {"ids": self.ids, "mask": self.mask, "parts": self.parts, "text_delta": self.text_delta}
        width = _width(self.mask)
        trimmed = {name: values[:, :width] for name, values in per_position.items() if values is not None}
        if self.targets is not None and not self.targets.is_floating_point():
            trimmed["targets"] = self.targets[:, : _width(self.targets >= 0)]
        return dataclasses.replace(self, **trimmed)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "TextBatch":
        tensors = {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) is not None}
        return dataclasses.replace(self, **{name: change(value) for name, value in tensors.items()})


def _width(used: Bool[Tensor, "b t"]) -> int:
    """Count the columns up to the last one that any row uses."""
    columns = used.any(0).nonzero()
    return int(columns[-1]) + 1 if len(columns) else 0
