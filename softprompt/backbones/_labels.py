"""How the log-probabilities of a label's tokens become one score."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data import unknown_id
from ..errors import BadInput, pick, some_of

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
            f"the tokenizer of {model!r} does not know the labels {some_of([*map(repr, unknown)])}: it {read}, so that "
            f"the model cannot answer with them; {advice}"
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
    return [token for token in row if token == unknown or (token not in special and tokenizer.decode([token]).strip())]


def prefix_pair(rows: Sequence[Sequence[int]]) -> tuple[Sequence[int], Sequence[int]] | None:
    """The first two labels of which one is the beginning of the other; None if there are none.

    In the order of their tokens, what begins with a label follows it at once.
    """
    ordered = sorted(rows, key=list)
    pairs = itertools.pairwise(ordered)
    return next(((a, b) for a, b in pairs if list(b[: len(a)]) == list(a)), None)


@final
@dataclass(frozen=True)
class Reading:
    """How the labels of one task are scored: their token ids, and how the tokens of each become one score.

    Args:
        labels: token ids by class id, from `encode_answers`.
        normalize: "sum", "mean" or "first".
    """

    labels: tuple[tuple[int, ...], ...]
    normalize: str = "sum"

    @classmethod
    def of(cls, labels: Sequence[Sequence[int]], normalize: str = "sum") -> "Reading":
        """The same of lists."""
        return cls(tuple(tuple(label) for label in labels), normalize)

    @property
    def scored(self) -> tuple[tuple[int, ...], ...]:
        """The tokens that count: under "first" the first of each label alone."""
        return tuple(label[:1] for label in self.labels) if self.normalize == "first" else self.labels

    def combined(self, log_likelihoods: Float[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """The score of a label from the log-probabilities of its tokens that count."""
        return combine(log_likelihoods, self.normalize)


def rows_of(which: Int[Tensor, " b"], count: int) -> list[Int[Tensor, " r"]]:
    """For each of so many readings the rows that are scored by it, in their order."""
    return [(which == number).nonzero()[:, 0] for number in range(count)]


def answers_each(answers: Sequence[Sequence[Sequence[int]]], which: Int[Tensor, " b"]) -> Int[Tensor, "b k l"]:
    """Return the answers that each row reads; -100 is padding.

    Args:
        answers: several sets of answers, each answer its token ids.
        which: for each row its set.
    """
    most = max(map(len, answers), default=0)
    longest = max((len(answer) for group in answers for answer in group), default=0)
    padded = [
        [[*answer, *[-100] * (longest - len(answer))] for answer in [*group, *[()] * (most - len(group))]]
        for group in answers
    ]
    return torch.tensor(padded, dtype=torch.long, device=which.device).view(len(answers), most, longest)[which]


@final
@dataclass(frozen=True)
class Reads:
    """What a model reads after a text to score all labels: each label without its last token.

    Labels that begin alike share what they have in common: all labels of one token read nothing, and only once.

    Args:
        sequences: the token sequences, none of which is the beginning of another.
        places: for each label, the sequence in which it is read.
    """

    sequences: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, labels: Sequence[Sequence[int]]) -> "Reads":
        """Of the token ids of each label."""
        sequences: list[tuple[int, ...]] = []
        for read in sorted({tuple(label[:-1]) for label in labels}, key=lambda read: (-len(read), read)):
            if not any(longer[: len(read)] == read for longer in sequences):
                sequences.append(read)
        places = [
            next(place for place, read in enumerate(sequences) if read[: len(label) - 1] == tuple(label[:-1]))
            for label in labels
        ]
        return cls(tuple(sequences), tuple(places))

    def targets(self, ignored: int) -> list[list[int]]:
        """The sequences as targets of a pass, which reads all but the last of them, filled up with `ignored`."""
        longest = max(map(len, self.sequences))
        return [[*read, *[ignored] * (longest + 1 - len(read))] for read in self.sequences]

    def scores(
        self, log_likelihoods: Float[Tensor, "b r l v"], labels: Sequence[Sequence[int]], normalize: str
    ) -> Float[Tensor, "b c"]:
        """The label scores from the log-probabilities of the next token after each beginning of each sequence."""
        scores = [
            combine(log_likelihoods[:, place, range(len(label)), list(label)], normalize)
            for place, label in zip(self.places, labels, strict=True)
        ]
        return torch.stack(scores, 1)


def log_probabilities(logits: Float[Tensor, "b l v"]) -> Float[Tensor, "b l v"]:
    """Log-softmax over the vocabulary, in float32 at least: bfloat16 keeps three digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def combine(log_likelihoods: Float[Tensor, "b l"], normalize: str) -> Float[Tensor, " b"]:
    """The score of a label from its tokens' log-probabilities."""
    return log_likelihoods.mean(1) if normalize == "mean" else log_likelihoods.sum(1)
