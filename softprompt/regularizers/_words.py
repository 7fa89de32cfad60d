"""Random changes of words: some words are masked, or replaced by random ones."""

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
    """Masks each word of the row's columns, or replaces it by a random one, with probability `rate`.

    It changes whole words: every token of a word is masked, or replaced by another token. It never changes the
    template, special tokens, label words or padding. The number of tokens stays the same.

    Args:
        rate: probability, 0 to 1.
        how: "mask" writes the mask token or T5's first sentinel; "replace" writes a random word of the vocabulary.
            If the tokenizer has no mask token, words are replaced and a warning says so.
        column: which columns: "all", "last", or a number; 1 is the first column in the template.

    Raises:
        BadInput: the rate is no probability, or `column` names no column.
        UnknownName: `how` is unknown.
    """

    rate: float = 0.15
    how: Literal["mask", "replace"] = "mask"
    column: str = "all"

    def __post_init__(self) -> None:
        """Refuse a rate that is no probability, and unknown words."""
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

    def batches(self, context: PerturbationContext, by_owner: Mapping[int, "WordPerturbation"]) -> Iterator[TextBatch]:
        """Yield the rows with other tokens at some positions."""
        batch = context.batch
        free = free_words(context, self.column)
        words = context.vocabulary.words(batch.ids, batch.mask)
        chances = context.draw(lambda k, generator: torch.rand(k, generator=generator), _text)
        # All tokens of a word share the random number of its first token.
        first = torch.nn.functional.pad(words, (1, 0))[:, :-1] != words
        rows = torch.arange(len(words), device=words.device)[:, None].expand_as(words)
        by_word = torch.ones(len(words), int(words.max()) + 1, device=words.device)
        by_word[rows[first], words[first]] = chances[first]
        rate = context.rowwise({owner: values.rate for owner, values in by_owner.items()})[:, :, 0]
        chosen = free & (by_word.gather(1, words) < rate)
        yield dataclasses.replace(batch, ids=torch.where(chosen, self._replacements(context), batch.ids))

    def _replacements(self, context: PerturbationContext) -> Int[Tensor, "b t"]:
        """Return the token that each position gets if its word is changed."""
        vocabulary, ids = context.vocabulary, context.batch.ids
        if self.how == "mask" and vocabulary.mask_id is not None:
            return torch.full_like(ids, vocabulary.mask_id)
        if self.how == "mask":
            _warn_once(f"the tokenizer has no mask token: words are replaced by random ones ({type(self).__name__})")
        choices = vocabulary.replaceable.nonzero()[:, 0]
        drawn = context.draw(lambda k, generator: torch.rand(k, generator=generator), _text)
        return choices.to(ids.device)[(drawn * len(choices)).long().clamp(max=len(choices) - 1)]


def _text(batch: TextBatch, prompt_mask: Bool[Tensor, "b n"]) -> Bool[Tensor, "b t"]:
    return batch.mask


def free_words(context: PerturbationContext, column: str) -> Bool[Tensor, "b t"]:
    """Return the positions of words that may change: words of these columns that share no token with a label word."""
    batch, vocabulary = context.batch, context.vocabulary
    free = batch.mask & ~vocabulary.special.to(batch.ids.device)[batch.ids] & in_columns(batch, column)
    words = vocabulary.words(batch.ids, batch.mask)
    guarded = vocabulary.guarded.to(batch.ids.device)[batch.ids] | ~free
    # A word stays unchanged if any of its tokens may not change.
    guarded_tokens = torch.zeros(len(words), int(words.max()) + 1, dtype=torch.long, device=words.device)
    guarded_tokens.scatter_add_(1, words, guarded.long())
    return free & (guarded_tokens.gather(1, words) == 0)


def in_columns(batch: TextBatch, column: str) -> Bool[Tensor, "b t"]:
    """Return the positions that belong to the given columns."""
    assert batch.parts is not None
    if column == "all":
        return batch.parts > TEMPLATE
    if column == "last":
        return (batch.parts == batch.parts.amax(1, keepdim=True)) & (batch.parts > TEMPLATE)
    return batch.parts == int(column)


def refuse_no_words(free: Bool[Tensor, "b t"]) -> None:
    """Refuse rows in which no word may change, because the regulariser would silently have no effect.

    Raises:
        BadInput: no word may change; the message says what to do.
    """
    if not bool(free.any()):
        raise BadInput(
            f"no word of {len(free)} training rows may be changed (label words, special tokens and the template never "
            "are); choose other columns, a smaller cosine, or a perturbation of embeddings"
        )


def refuse_no_column(column: str) -> None:
    """Refuse a name that is no column.

    Raises:
        BadInput: `column` is neither "all" nor "last" nor a positive number.
    """
    if column not in ("all", "last") and not (column.isdigit() and int(column) > 0):
        raise BadInput(f"column {column!r} does not exist; give all, last, or a number: 1 is the template's first")


_warned: set[str] = set()


def _warn_once(line: str) -> None:
    if line not in _warned:
        _warned.add(line)
        log.warning(line)
