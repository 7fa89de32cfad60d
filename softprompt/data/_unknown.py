"""Tokens that a tokenizer does not know. The model reads all of them as the same word."""

import logging
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ..prompts.batch import SPECIAL, TEMPLATE
from ._examples import Examples, Ragged

log = logging.getLogger("softprompt")

# A larger share of unknown tokens leads to a warning, because the model does not read what the user sees.
TOLERATED_SHARE = 0.05


def unknown_id(tokenizer: Any) -> int | None:
    """The token that stands for whatever the tokenizer does not know; None where it reads every byte or character.

    Byte-level tokenizers name one that they never use, which is also their end of sequence (GPT-2).
    """
    unknown = tokenizer.unk_token_id
    return None if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id) else unknown


def warn_of_unknown(examples: Examples, tokenizer: Any, model: str, what: str = "") -> None:
    """Say how many tokens of the texts and of the answers are unknown, where that is more than 5 % of them.

    Args:
        examples: rows of `tokenize`.
        tokenizer: that read them.
        model: its name.
        what: which rows these are ("train", "test"); empty for those that the user gave.
    """
    unknown = unknown_id(tokenizer)
    if unknown is None:
        return
    counts = {"texts": _count(examples.inputs.flat, _is_text(examples), unknown)}
    if isinstance(examples.targets, Ragged):
        special = torch.tensor(tokenizer.all_special_ids)
        counts["answers"] = _count(examples.targets.flat, ~torch.isin(examples.targets.flat, special), unknown)
    for part, (unknown_count, total) in counts.items():
        if unknown_count > TOLERATED_SHARE * total:
            log.warning(
                "%d of the %d tokens in the %s are unknown (%.0f %%): the tokenizer of %r reads each as %r, so that "
                "the model cannot tell them apart; choose a model that knows these words",
                unknown_count, total, f"{what} {part}".strip(), 100 * unknown_count / total, model, tokenizer.unk_token,
            )  # fmt: skip


def _is_text(examples: Examples) -> Bool[Tensor, " n"]:
    """Which tokens are of the rows' columns; those of the template too where the tokenizer does not tell them apart."""
    if examples.parts is None:
        return torch.ones_like(examples.inputs.flat, dtype=torch.bool)
    return (examples.parts.flat != SPECIAL) & (examples.parts.flat != TEMPLATE)


def _count(ids: Tensor, counts: Bool[Tensor, " n"], unknown: int) -> tuple[int, int]:
    """Unknown tokens, and all that count; an unknown token is special to the tokenizer, and counts wherever it is."""
    is_unknown = ids == unknown
    return int(is_unknown.sum()), int((counts | is_unknown).sum())
