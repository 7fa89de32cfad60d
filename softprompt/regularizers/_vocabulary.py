"""The vocabulary as text perturbations see it: which tokens are whole words, and which may replace another."""

import functools
from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Marks of a token that begins a word (SentencePiece, byte-level BPE) or continues one (WordPiece).
BEGINS, GOES_ON = ("▁", "Ġ"), "##"
SENTINEL = "<extra_id_0>"


@final
class Vocabulary:
    """The tokens of a tokenizer as a text perturbation sees them.

    Args:
        tokenizer: the tokenizer of the backbone.
        size: number of rows of the embedding table, which may be larger than the number of tokens.
        label_words: token ids of the answers, which no perturbation inserts or removes.
    """

    def __init__(self, tokenizer: Any, size: int, label_words: Sequence[Sequence[int]] = ()):
        self.tokenizer, self.size = tokenizer, size
        self.label_words = frozenset(token for word in label_words for token in word)

    @property
    def mask_id(self) -> int | None:
        """The id of the mask token or of T5's first sentinel, or None where the tokenizer has neither."""
        if self.tokenizer.mask_token_id is not None:
            return self.tokenizer.mask_token_id
        return self.tokenizer.get_vocab().get(SENTINEL)

    @functools.cached_property
    def tokens(self) -> list[str]:
        """The tokens as the tokenizer writes them, with "" for rows of the table that have no token."""
        tokens = self.tokenizer.convert_ids_to_tokens(list(range(min(self.size, len(self.tokenizer)))))
        return [token or "" for token in tokens] + [""] * (self.size - len(tokens))

    @functools.cached_property
    def begins(self) -> Bool[Tensor, " v"]:
        """Whether a token begins a word.

        If the vocabulary marks beginnings, unmarked tokens continue a word. If it marks continuations, all other tokens
        begin a word. If it has no marks, each token is a word.
        """
        marked = torch.tensor([token.startswith(BEGINS) for token in self.tokens])
        if marked.sum() > 1:
            return marked | self.special
        return torch.tensor([not token.startswith(GOES_ON) for token in self.tokens])

    @functools.cached_property
    def special(self) -> Bool[Tensor, " v"]:
        """Whether a token is special."""
        special = torch.zeros(self.size, dtype=torch.bool)
        special[torch.tensor([i for i in self.tokenizer.all_special_ids if i < self.size], dtype=torch.long)] = True
        return special

    @functools.cached_property
    def guarded(self) -> Bool[Tensor, " v"]:
        """Whether a token belongs to a label word."""
        guarded = torch.zeros(self.size, dtype=torch.bool)
        guarded[torch.tensor(sorted(self.label_words), dtype=torch.long)] = True
        return guarded

    @functools.cached_property
    def replaceable(self) -> Bool[Tensor, " v"]:
        """Whether a token may be written into a text: a whole word of letters, not special, in no label word."""
        letters = torch.tensor([token.lstrip("".join(BEGINS)).isalpha() for token in self.tokens])
        return self.begins & letters & ~self.special & ~self.guarded

    @functools.cached_property
    def stops(self) -> Bool[Tensor, " v"]:
        """Whether a token is an English stop word (scikit-learn's list). Stop words are not swapped."""
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return torch.tensor([token.lstrip("".join(BEGINS)).lower() in ENGLISH_STOP_WORDS for token in self.tokens])

    def words(self, ids: Int[Tensor, "b t"], present: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """Number the words of each row from 1 and return the number of each position's word; 0 at padding.

        A word begins at a token that begins one, at the start of the row, and after padding.
        """
        before = torch.nn.functional.pad(present, (1, 0))[:, :-1]
        begins = present & (self.begins.to(ids.device)[ids] | ~before)
        return begins.cumsum(1) * present

    def neighbors(
        self, ids: Int[Tensor, " k"], embeddings: Float[Tensor, "v e"], count: int, cosine: float
    ) -> tuple[Int[Tensor, "k c"], Bool[Tensor, "k c"]]:
        """Return the nearest replaceable tokens by cosine, nearest first, and whether each is near enough.

        Args:
            ids: the tokens whose neighbours are sought.
            embeddings: word vectors.
            count: number of neighbours per token.
            cosine: lowest cosine of a near enough neighbour.
        """
        table = torch.nn.functional.normalize(embeddings.float(), dim=1)
        similar = table[ids] @ table.T
        allowed = self.replaceable.to(ids.device).expand_as(similar).clone()
        allowed[torch.arange(len(ids)), ids] = False
        # A cosine is never below -1, so -2 puts tokens that are not allowed last.
        nearest = similar.masked_fill(~allowed, -2.0).topk(min(count, self.size), dim=1)
        return nearest.indices, nearest.values >= cosine
