"""Texts with some hidden tokens, from which masked language models learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..data import Ragged
from ..errors import BadInput


@dataclass(frozen=True)
class Hidden:
    """Texts for one pass.

    Args:
        ids: tokens as they are shown, padded on the right.
        mask: which positions are text.
        asked: which tokens are asked for.
        answers: what stood there, row by row.
    """

    ids: Int[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    asked: Bool[Tensor, "b t"]
    answers: Int[Tensor, " k"]


class Cloze:
    """Texts as tokens, a share of which is asked for: never a special token.

    Args:
        tokenizer: of the encoder.
        texts: each cut to `max_length` tokens, special tokens included.
        share: of the tokens that are asked for.
        max_length: tokens.

    Raises:
        BadInput: no text with a token that may be asked for.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], *, share: float, max_length: int):
        self.tokenizer, self.share = tokenizer, share
        self._special = torch.tensor(tokenizer.all_special_ids)
        rows = tokenizer(list(texts), truncation=True, max_length=max_length).input_ids if texts else []
        usable = [row for row in rows if set(row) - set(tokenizer.all_special_ids)]
        if not usable:
            raise BadInput("not one text with a known word is left to fill masks in; give a --data-root with more rows")
        self.rows = Ragged.of(usable)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.rows)

    @property
    def most_frequent(self) -> int:
        """The most frequent token that is not special."""
        ids = self.rows.flat.long()
        return int(ids[~torch.isin(ids, self._special)].bincount().argmax())

    def hide(self, rows: Int[Tensor, " b"], generator: torch.Generator, *, shown: bool = True) -> Hidden:
        """These texts with a share of their tokens asked for, at least one.

        Args:
            rows: which texts.
            generator: of what is asked for and what stands there instead.
            shown: 80 % of those asked for are masked, 10 % replaced at random and 10 % shown; False masks all.
        """
        from transformers import DataCollatorForLanguageModeling

        pad = self.tokenizer.pad_token_id
        ids, mask = self.rows.padded(rows, 0 if pad is None else pad)
        collator = DataCollatorForLanguageModeling(
            self.tokenizer,
            mlm_probability=self.share,
            mask_replace_prob=0.8 if shown else 1.0,
            random_replace_prob=0.1 if shown else 0.0,
        )
        collator.generator = generator
        untouched = ~mask | torch.isin(ids, self._special)
        while True:
            changed, labels = collator.torch_mask_tokens(ids.clone(), untouched)
            is_asked = labels != -100
            if bool(is_asked.any()):
                return Hidden(changed, mask, is_asked, ids[is_asked])
