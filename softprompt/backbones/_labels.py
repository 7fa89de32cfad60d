"""How the log-probabilities of a label's tokens become one score."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadInput, pick

NORMALIZATIONS = {"sum": "of all tokens", "mean": "over the tokens", "first": "token only"}


def refuse_unknown_normalization(normalize: str) -> None:
    """Refuse a name that is not in NORMALIZATIONS.

    Raises:
        UnknownName: with the nearest.
    """
    pick("normalization", normalize, NORMALIZATIONS)


def refuse_collisions(labels: Sequence[Sequence[int]], tokenizer: Any) -> None:
    """Refuse to score by first tokens where two labels share theirs: they would always tie.

    Raises:
        BadInput: naming both labels.
    """
    seen: dict[int, Sequence[int]] = {}
    for label in labels:
        if (other := seen.setdefault(label[0], label)) is not label:
            words = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in (other, label)]
            raise BadInput(
                f"labels {words[0]!r} and {words[1]!r} begin with the same token {tokenizer.decode([label[0]])!r}; "
                "score their whole sequences (--normalize=sum) or choose other words"
            )


def log_probabilities(logits: Float[Tensor, "b l v"]) -> Float[Tensor, "b l v"]:
    """Log-softmax over the vocabulary, in float32 at least: bfloat16 keeps three digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def combine(found: Float[Tensor, "b l"], normalize: str) -> Float[Tensor, " b"]:
    """The score of a label from its tokens' log-probabilities."""
    return found.mean(1) if normalize == "mean" else found.sum(1)
