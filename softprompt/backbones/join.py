"""Where a prompt meets its text: right before it, whichever side the text was padded on.

A batch is brought into one form, `[pads of a shorter prompt | prompt | text | pads]`, so that prompt and text touch,
positions count what is there, and padding changes nothing.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import BadInput
from ..prompts.batch import PromptBatch, TextBatch
from .deep import Fresh


@final
@dataclass(frozen=True)
class Joined:
    """Embedded rows of prompt and text.

    Args:
        embeds: in the precision of the frozen model.
        mask: which positions are prompt or text.
        prompt_length: columns before the first text token, n.
        fresh: what enters the layers after the first; None where no prompt is deep.
    """

    embeds: Float[Tensor, "b s e"]
    mask: Bool[Tensor, "b s"]
    prompt_length: int
    fresh: Fresh | None = None

    @property
    def positions(self) -> Int[Tensor, "b s"]:
        """0, 1, 2 ... over the unmasked positions; pads hold the id of a neighbour."""
        return (self.mask.cumsum(1) - 1).clamp(min=0)

    @property
    def text(self) -> Bool[Tensor, "b t"]:
        """Which positions after the prompt are text."""
        return self.mask[:, self.prompt_length :]

    def packed(self) -> "Joined":
        """Every pad after the text, for models that count positions from the first column, pads included."""
        longest = int(self.mask.sum(1).max())
        return self.in_order(text_first(self.mask)[:, :longest])

    def pads_first(self) -> "Joined":
        """Every pad before the prompt, for decoders, whose answers go on at the right end."""
        longest = int(self.mask.sum(1).max())
        return self.in_order(text_last(self.mask)[:, self.mask.shape[1] - longest :])

    def answered(self, answer: Float[Tensor, "b l e"], mask: Bool[Tensor, "b l"]) -> "Joined":
        """Followed by the tokens of an answer, and then every pad."""
        fresh = None if self.fresh is None else self.fresh.with_more(mask.shape[1])
        embeds, seen = torch.cat([self.embeds, answer], 1), torch.cat([self.mask, mask], 1)
        return Joined(embeds, seen, self.prompt_length, fresh).packed()

    def in_order(self, order: Int[Tensor, "b t"]) -> "Joined":
        """With each row's columns in this order."""
        fresh = None if self.fresh is None else self.fresh.in_order(order)
        return Joined(take(self.embeds, order), self.mask.gather(1, order), self.prompt_length, fresh)


def text_first(mask: Bool[Tensor, "b s"]) -> Int[Tensor, "b s"]:
    """The columns of each row with the unmasked ones first, in their order."""
    return (~mask).to(torch.uint8).argsort(dim=1, stable=True)


def text_last(mask: Bool[Tensor, "b s"]) -> Int[Tensor, "b s"]:
    """The columns of each row with the unmasked ones last, in their order."""
    return mask.to(torch.uint8).argsort(dim=1, stable=True)


def take(states: Float[Tensor, "b s d"], columns: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
    """Each row's states at its own columns."""
    return states.take_along_dim(columns[:, :, None], 1)


def padded_right(batch: TextBatch) -> TextBatch:
    """The same rows with their pads after the text."""
    order = text_first(batch.mask)
    moved = {"ids": batch.ids.gather(1, order), "mask": batch.mask.gather(1, order)}
    if batch.parts is not None:
        moved["parts"] = batch.parts.gather(1, order)
    if batch.text_delta is not None:
        moved["text_delta"] = take(batch.text_delta, order)
    return dataclasses.replace(batch, **moved)


def without_end(batch: TextBatch, end: int) -> TextBatch:
    """Rows that are padded on the right, with a token masked where it is the last of its row."""
    columns = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    is_last = columns == batch.mask.sum(1, keepdim=True) - 1
    return dataclasses.replace(batch, mask=batch.mask & ~(is_last & (batch.ids == end)))


def join(
    prompt: Float[Tensor, "b n e"],
    prompt_mask: Bool[Tensor, "b n"],
    text: Float[Tensor, "b t e"],
    text_mask: Bool[Tensor, "b t"],
) -> Joined:
    """Prompts (padded left) before texts (padded right); the prompt takes the text's precision here, not earlier."""
    embeds = torch.cat([prompt.to(text.dtype), text], 1)
    return Joined(embeds, torch.cat([prompt_mask, text_mask], 1), prompt.shape[1])


@runtime_checkable
class RowChange(Protocol):
    """What a method makes of the embedded rows: a prompt for each row, or other words."""

    def __call__(
        self, prompt: Float[Tensor, "b n e"], text: Float[Tensor, "b t e"], mask: Bool[Tensor, "b t"], /
    ) -> tuple[Float[Tensor, "b n e"], Float[Tensor, "b t e"]]:
        """Return prompt and text of each row, with gradients.

        Args:
            prompt: what stands before each row.
            text: the embedded words, padded on the right.
            mask: which positions of the text are no pads.
        """
        ...


def join_batch(
    prompt_batch: PromptBatch, batch: TextBatch, embed: Callable[[Tensor], Tensor], change: RowChange | None = None
) -> Joined:
    """The rows of a batch (padded right), each after the prompt that owns it, both shifted as the batch says.

    Args:
        prompt_batch: the prompts.
        batch: the rows.
        embed: gives the vectors of token ids.
        change: what is made of the shifted rows; None leaves them.
    """
    prompt, text = prompt_batch.vectors[batch.owner], embed(batch.ids)
    if batch.prompt_delta is not None:
        prompt = prompt + batch.prompt_delta
    if batch.text_delta is not None:
        text = text + batch.text_delta.to(text.dtype)
    if change is not None:
        prompt, text = change(prompt, text, batch.mask)
    joined = join(prompt, prompt_batch.mask[batch.owner], text, batch.mask)
    return dataclasses.replace(joined, fresh=Fresh.of(prompt_batch, batch.owner, batch.ids.shape[1]))


def join_masks(prompt_batch: PromptBatch, batch: TextBatch, like: Tensor) -> Joined:
    """The same rows without vectors: no more is needed to count positions."""
    mask = torch.cat([prompt_batch.mask[batch.owner], batch.mask], 1)
    return Joined(like.new_zeros(*mask.shape, 0), mask, prompt_batch.mask.shape[1])


def refuse_too_long(joined: Joined, limit: int | None, name: str, answer: int = 0, *, why: str = "") -> None:
    """Refuse rows for which the model has no positions, the `answer` tokens that it reads after them included.

    `why` says what ends there, where it is not the positions themselves (`limit_reason`).

    Raises:
        BadInput: with the length of the prompt, of the text, and the limit.
    """
    # The width of the batch is known without waiting for the device, and nearly always enough.
    if limit is None or joined.mask.shape[1] + answer <= limit:
        return
    row = int(joined.mask.sum(1).argmax())
    text = int(joined.text[row].sum())
    prompt = int(joined.mask[row].sum()) - text
    if (needed := prompt + text + answer) > limit:
        parts = f"a prompt of {prompt} and a text of {text} tokens"
        if answer:
            parts = f"a prompt of {prompt}, a text of {text} and an answer of {answer} tokens"
        raise BadInput(
            f"{parts} need {needed} positions, {name!r} has {limit}{why}; "
            f"give --max-length {max(limit - prompt - answer, 0)} or a shorter prompt"
        )


def refuse_empty(joined: Joined) -> None:
    """Refuse rows without prompt and text: a decoder answers after something.

    Raises:
        BadInput: with the row.
    """
    is_empty = ~joined.mask.any(1)
    if bool(is_empty.any()):
        raise BadInput(f"row {int(is_empty.nonzero()[0])} has neither prompt nor text; a decoder needs one of them")
