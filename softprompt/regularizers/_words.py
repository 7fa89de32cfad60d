"""Random changes of words: some are masked, or replaced by others."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..data import TEMPLATE
from ..errors import BadInput
from ..prompts.batch import TextBatch
from ._base import AbstractPerturbation, PerturbationContext, refuse_negative, refuse_unknown, refuse_unknown_parts

log = logging.getLogger("softprompt")


@final
@dataclass(frozen=True, kw_only=True)
class WordPerturbation(AbstractPerturbation):
    """Each word of the row's columns is masked, or replaced by a random one, with probability `rate`.

    Whole words: all tokens of a word are masked, each replaced by another token. Never the template, a special token, a
    label word or a pad. The length stays as it is.

    Args:
        rate: probability, 0 to 1.
        how: "mask", by the mask token or T5's first sentinel; or "replace", by a random word of the vocabulary.
            Without a mask token words are replaced, and a line says so.
        column: which columns: "all", "last", or a number from 1, as the template names them.
    """

    rate: float = 0.15
    how: Literal["mask", "replace"] = "mask"
    column: str = "all"

    def __post_init__(self) -> None:
        """Refuse what is no rate."""
        refuse_negative("perturbation of words", rate=self.rate)
        if self.rate > 1:
            raise BadInput(f"perturbation of words: rate is a probability, not {self.rate:g}; give 0 to 1")
        refuse_unknown("perturbation of words", how=(self.how, ("mask", "replace")))
        refuse_no_column(self.column)

    @property
    def is_nothing(self) -> bool:
        """Whether no word is changed."""
        return not self.rate

    def check(self, context: PerturbationContext) -> None:
        """Refuse rows without a word that may change."""
        refuse_unknown_parts(context)
        refuse_no_words(free_words(context, self.column))

    def batches(self, context: PerturbationContext, own: Mapping[int, "WordPerturbation"]) -> Iterator[TextBatch]:
        """The rows with other tokens in some places."""
        batch = context.batch
        free = free_words(context, self.column)
        words = context.vocabulary.words(batch.ids, batch.mask)
        chances = context.draw(lambda k, generator: torch.rand(k, generator=generator), _text)
        # One number a word: that of its first token, which all its tokens share.
        first = torch.nn.functional.pad(words, (1, 0))[:, :-1] != words
        by_word = torch.ones(len(words), int(words.max()) + 1, device=words.device)
        by_word[torch.arange(len(words), device=words.device)[:, None].expand_as(words)[first], words[first]] = chances[
            first
        ]
        rate = context.rowwise({owner: one.rate for owner, one in own.items()})[:, :, 0]
        chosen = free & (by_word.gather(1, words) < rate)
        yield dataclasses.replace(batch, ids=torch.where(chosen, self._written(context), batch.ids))

    def _written(self, context: PerturbationContext) -> Int[Tensor, "b t"]:
        """What would stand at each position if it were changed."""
        vocabulary, ids = context.vocabulary, context.batch.ids
        if self.how == "mask" and vocabulary.mask_id is not None:
            return torch.full_like(ids, vocabulary.mask_id)
        if self.how == "mask":
            _say_once(f"the tokenizer has no mask token: words are replaced by random ones ({type(self).__name__})")
        choices = vocabulary.replaceable.nonzero()[:, 0]
        drawn = context.draw(lambda k, generator: torch.rand(k, generator=generator), _text)
        return choices.to(ids.device)[(drawn * len(choices)).long().clamp(max=len(choices) - 1)]


def _text(batch: TextBatch, prompt_mask: Bool[Tensor, "b n"]) -> Bool[Tensor, "b t"]:
    return batch.mask


def free_words(context: PerturbationContext, column: str) -> Bool[Tensor, "b t"]:
    """Positions of words that may change: whole words of these columns that are no part of a label word."""
    batch, vocabulary = context.batch, context.vocabulary
    free = batch.mask & ~vocabulary.special.to(batch.ids.device)[batch.ids] & in_columns(batch, column)
    words = vocabulary.words(batch.ids, batch.mask)
    guarded = vocabulary.guarded.to(batch.ids.device)[batch.ids] | ~free
    # A word with one token that may not change is left whole.
    held = torch.zeros(len(words), int(words.max()) + 1, dtype=torch.long, device=words.device)
    held.scatter_add_(1, words, guarded.long())
    return free & (held.gather(1, words) == 0)


def in_columns(batch: TextBatch, column: str) -> Bool[Tensor, "b t"]:
    """Which positions belong to the columns that are asked for."""
    assert batch.parts is not None
    if column == "all":
        return batch.parts > TEMPLATE
    if column == "last":
        return (batch.parts == batch.parts.amax(1, keepdim=True)) & (batch.parts > TEMPLATE)
    return batch.parts == int(column)


def refuse_no_words(free: Bool[Tensor, "b t"]) -> None:
    """Refuse rows in which nothing may change: the regulariser would quietly be off.

    Raises:
        BadInput: with what to do.
    """
    if not bool(free.any()):
        raise BadInput(
            f"no word of {len(free)} training rows may be changed (label words, special tokens and the template never "
            "are); choose other columns, a smaller cosine, or a perturbation of embeddings"
        )


def refuse_no_column(column: str) -> None:
    """Refuse what names no columns.

    Raises:
        BadInput: with what to give.
    """
    if column not in ("all", "last") and not (column.isdigit() and int(column) > 0):
        raise BadInput(f"column {column!r} is no column; give all, last, or a number: 1 is the template's first")


_said: set[str] = set()


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        log.warning(line)
