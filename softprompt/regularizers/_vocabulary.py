"""Which tokens are words of their own, and which of them may stand for another."""

import functools
from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# How tokenizers mark a token that begins a word (sentencepiece, byte-level BPE) or goes on with one (WordPiece).
BEGINS, GOES_ON = ("▁", "Ġ"), "##"
SENTINEL = "<extra_id_0>"


@final
class Vocabulary:
    """The tokens of a tokenizer as a text perturbation sees them.

    Args:
        tokenizer: of the backbone.
        size: rows of the embedding table, which may be more than the tokenizer has tokens.
        label_words: token ids of the answers, which no perturbation writes or takes away.
    """

    def __init__(self, tokenizer: Any, size: int, label_words: Sequence[Sequence[int]] = ()):
        self.tokenizer, self.size = tokenizer, size
        self.label_words = frozenset(token for word in label_words for token in word)

    @property
    def mask_id(self) -> int | None:
        """The mask token, or T5's first sentinel; None where the tokenizer has neither."""
        if self.tokenizer.mask_token_id is not None:
            return self.tokenizer.mask_token_id
        return self.tokenizer.get_vocab().get(SENTINEL)

    @functools.cached_property
    def tokens(self) -> list[str]:
        """The tokens as the tokenizer writes them; "" where it has none."""
        known = self.tokenizer.convert_ids_to_tokens(list(range(min(self.size, len(self.tokenizer)))))
        return [token or "" for token in known] + [""] * (self.size - len(known))

    @functools.cached_property
    def begins(self) -> Bool[Tensor, " v"]:
        """Whether a token begins a word.

        Without any mark in the whole vocabulary each token is a word; where beginnings are marked, unmarked tokens
        go on; where continuations are marked, the others begin.
        """
        marked = torch.tensor([token.startswith(BEGINS) for token in self.tokens])
        if marked.sum() > 1:
            return marked | self.special
        return torch.tensor([not token.startswith(GOES_ON) for token in self.tokens])

    @functools.cached_property
    def special(self) -> Bool[Tensor, " v"]:
        """The tokenizer's special tokens."""
        special = torch.zeros(self.size, dtype=torch.bool)
        special[torch.tensor([i for i in self.tokenizer.all_special_ids if i < self.size], dtype=torch.long)] = True
        return special

    @functools.cached_property
    def guarded(self) -> Bool[Tensor, " v"]:
        """Tokens of the label words."""
        guarded = torch.zeros(self.size, dtype=torch.bool)
        guarded[torch.tensor(sorted(self.label_words), dtype=torch.long)] = True
        return guarded

    @functools.cached_property
    def replaceable(self) -> Bool[Tensor, " v"]:
        """Whole words of letters that are neither special nor part of a label word: what may be written into a text."""
        letters = torch.tensor([token.lstrip("".join(BEGINS)).isalpha() for token in self.tokens])
        return self.begins & letters & ~self.special & ~self.guarded

    @functools.cached_property
    def stops(self) -> Bool[Tensor, " v"]:
        """Stop words of English (scikit-learn's list), which are never swapped."""
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return torch.tensor([token.lstrip("".join(BEGINS)).lower() in ENGLISH_STOP_WORDS for token in self.tokens])

    def words(self, ids: Int[Tensor, "b t"], present: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """The number of each position's word, from 1 along the row; 0 where nothing is present.

        A word begins where its token says so, where the row begins, and behind what is not present.
        """
        before = torch.nn.functional.pad(present, (1, 0))[:, :-1]
        begins = present & (self.begins.to(ids.device)[ids] | ~before)
        return begins.cumsum(1) * present

    def neighbors(
        self, ids: Int[Tensor, " k"], embeddings: Float[Tensor, "v e"], count: int, cosine: float
    ) -> tuple[Int[Tensor, "k c"], Bool[Tensor, "k c"]]:
        """The nearest replaceable tokens of each token by cosine, nearest first, and which of them are near enough.

        Args:
            ids: tokens.
            embeddings: word vectors.
            count: neighbours of each.
            cosine: least cosine.
        """
        table = torch.nn.functional.normalize(embeddings.float(), dim=1)
        similar = table[ids] @ table.T
        allowed = self.replaceable.to(ids.device).expand_as(similar).clone()
        allowed[torch.arange(len(ids)), ids] = False
        found = similar.masked_fill(~allowed, -2.0).topk(min(count, self.size), dim=1)
        return found.indices, found.values >= cosine
