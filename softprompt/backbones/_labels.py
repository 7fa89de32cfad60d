"""How the log-probabilities of a label's tokens become one score."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..data import unknown_id
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


def refuse_indistinct(rows: Sequence[Sequence[int]], words: Sequence[str], tokenizer: Any, model: str) -> None:
    """Refuse label words between which no model can decide: of unknown tokens or none, or two with equal tokens.

    Args:
        rows: token ids of each word, end of sequence included.
        words: the label words.
        tokenizer: that read them.
        model: its name.

    Raises:
        BadInput: naming the words and their tokens.
    """
    advice = "choose words that it knows and tells apart (--label-words, --style), or another model"
    contents = [_content(row, tokenizer) for row in rows]
    unknown = [word for word, row in zip(words, contents, strict=True) if set(row) <= {unknown_id(tokenizer)}]
    if unknown:
        read = "makes no token of them" if unknown_id(tokenizer) is None else f"reads them as {tokenizer.unk_token!r}"
        raise BadInput(
            f"the tokenizer of {model!r} does not know the labels {_listed(unknown)}: it {read}, so that the model "
            f"cannot answer with them; {advice}"
        )
    seen: dict[tuple[int, ...], str] = {}
    for word, row in zip(words, rows, strict=True):
        if (other := seen.setdefault(tuple(row), word)) is not word:
            tokens = " ".join(map(str, tokenizer.convert_ids_to_tokens(list(row))))
            raise BadInput(
                f"the labels {other!r} and {word!r} are the same tokens to the tokenizer of {model!r} ({tokens}), so "
                f"that their scores are always equal; {advice}"
            )


def _content(row: Sequence[int], tokenizer: Any) -> list[int]:
    """The tokens of an answer that say something: no special token but the unknown one, and no lone blank."""
    unknown, special = unknown_id(tokenizer), set(tokenizer.all_special_ids)
    return [one for one in row if one == unknown or (one not in special and tokenizer.decode([one]).strip())]


def _listed(words: Sequence[str], most: int = 5) -> str:
    """The words in quotes, at most so many of them."""
    more = [f"{len(words) - most} more"] if len(words) > most else []
    return ", ".join([*map(repr, words[:most]), *more])


def log_probabilities(logits: Float[Tensor, "b l v"]) -> Float[Tensor, "b l v"]:
    """Log-softmax over the vocabulary, in float32 at least: bfloat16 keeps three digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def combine(found: Float[Tensor, "b l"], normalize: str) -> Float[Tensor, " b"]:
    """The score of a label from its tokens' log-probabilities."""
    return found.mean(1) if normalize == "mean" else found.sum(1)
