"""What a backbone needs of several prompts at once, and of the rows that own them. Torch only."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .prompt import LinearHead, SoftPrompt

# What a token is a part of, where it is not the first column (1), the second (2) ...
TEMPLATE, SPECIAL, UNKNOWN = 0, -1, -2


@dataclass(frozen=True)
class PromptBatch:
    """p prompts of possibly different lengths, padded on the left so that each ends next to the text.

    Args:
        vectors: padded with zeros on the left up to the longest prompt.
        mask: which positions are prompt.
        head_weight: one linear head a prompt, or None where the backbone answers in tokens.
        head_bias: likewise.
        deep: vectors that enter the k layers after the first, padded likewise; None where no prompt is deep.
        is_deep: which prompts these belong to; the others enter the first layer only.
    """

    vectors: Float[Tensor, "p n e"]
    mask: Bool[Tensor, "p n"]
    head_weight: Float[Tensor, "p c d"] | None = None
    head_bias: Float[Tensor, "p c"] | None = None
    deep: Float[Tensor, "p k n e"] | None = None
    is_deep: Bool[Tensor, " p"] | None = None

    @classmethod
    def stack(
        cls, prompts: Sequence[Tensor], heads: Sequence[LinearHead] = (), deep: Sequence[Tensor | None] = ()
    ) -> "PromptBatch":
        """A batch of prompts of prompts [n_i, e], with [k, n_i, e] for those that are deep; gradients flow back into each."""
        longest = max(prompt.shape[0] for prompt in prompts)
        prompt_batch = cls._of_first_layers(prompts, longest, heads)
        if not (found := [layers for layers in deep if layers is not None]):
            return prompt_batch
        empty = found[0].new_zeros(len(found[0]), longest, found[0].shape[2])
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
        """The batch of prompts of stored prompts, on the backbone's device."""
        heads = [LinearHead(h.weight.to(device), h.bias.to(device)) for p in prompts if (h := p.head)]
        deep = [None if (layers := p.expanded_deep()) is None else layers.to(device) for p in prompts]
        return cls.stack([p.expanded().to(device) for p in prompts], heads, deep)


@dataclass(frozen=True)
class TextBatch:
    """Rows for one pass: their tokens, the prompt that each is answered with, and what it should answer.

    Args:
        ids: token ids, padded on either side.
        mask: which positions are text.
        owner: index into the batch of prompts, one a row.
        targets: token ids at the label positions (class ids for a linear head), -100 where there is none;
            floats for a number answered by a linear head; None when only answering.
        parts: what each token is a part of: a column of the row (1, 2 ...), the template (0), or neither (below 0:
            SPECIAL, or UNKNOWN).
        text_delta: added to the embedded text; None adds nothing.
        prompt_delta: added to each row's own prompt, before it takes the model's precision; None adds nothing.
    """

    ids: Int[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    owner: Int[Tensor, " b"]
    targets: Int[Tensor, "b l"] | Float[Tensor, "b 1"] | None = None
    parts: Int[Tensor, "b t"] | None = None
    text_delta: Float[Tensor, "b t e"] | None = None
    prompt_delta: Float[Tensor, "b n e"] | None = None

    def to(self, device: "torch.device | str") -> "TextBatch":
        """The same rows on another device."""
        return self._map(lambda values: values.to(device))

    def select(self, rows: "Int[Tensor, ' k'] | Bool[Tensor, ' b']") -> "TextBatch":
        """Some of the rows, as wide as before."""
        return self._map(lambda values: values[rows])

    def trimmed(self) -> "TextBatch":
        """The same rows without the last columns that are text, or a target, of none of them."""
        cut = {"ids": self.ids, "mask": self.mask, "parts": self.parts, "text_delta": self.text_delta}
        width = _width(self.mask)
        there = {name: values[:, :width] for name, values in cut.items() if values is not None}
        if self.targets is not None and not self.targets.is_floating_point():
            there["targets"] = self.targets[:, : _width(self.targets >= 0)]
        return dataclasses.replace(self, **there)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "TextBatch":
        there = {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) is not None}
        return dataclasses.replace(self, **{name: change(value) for name, value in there.items()})


def _width(there: Bool[Tensor, "b t"]) -> int:
    """Columns up to the last in which anything is there."""
    found = there.any(0).nonzero()
    return int(found[-1]) + 1 if len(found) else 0
