"""Draws passages that belong to one split, as hard as asked."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from ..errors import BadInput
from ._passages import CLAUSES, Passage, draw_facts, tell
from ._statements import FORMS, statement
from ._words import ATTRIBUTES, TOLD_BY

SPLITS = ("train", "validation", "test")


def split_of(text: str) -> str:
    """The split that a passage belongs to, by its own words: no passage is ever in two of them.

    CRC-32 of the text modulo 8: 0 is validation, 1 is test, the rest is training, pretraining of the backbones
    included.
    """
    return {0: "validation", 1: "test"}.get(zlib.crc32(text.encode()) % 8, "train")


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """How many rows, and how hard they are.

    Args:
        seed: of the rows; another seed gives other rows of the same splits.
        train: rows of the training split.
        validation: rows of the validation split.
        test: rows of the test split.
        fillers: sentences that tell nothing, added to each passage.
        noise: meaningless words strewn into each passage.
        label_noise: share of training rows (0..1) that carry the answer of another row.
    """

    seed: int = 0
    train: int = 4000
    validation: int = 500
    test: int = 1000
    fillers: int = 0
    noise: int = 0
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        for name in ("train", "validation", "test"):
            if getattr(self, name) < 1:
                raise BadInput(f"a lab task needs at least one {name} row, not {getattr(self, name)}")
        if self.fillers < 0 or self.noise < 0:
            raise BadInput(f"fillers and noise are counts, not {min(self.fillers, self.noise)}")
        if not 0 <= self.label_noise <= 1:
            raise BadInput(f"label_noise is a share of the rows, 0 to 1, not {self.label_noise}")


# Share of short passages where something is asked of an attribute's value.
SHORT = 1 / 3


@dataclass(frozen=True)
class PassageSampler:
    """Draws passages of one split, as hard as asked."""

    draw: Random
    split: str
    difficulty: Difficulty
    short: float = SHORT

    def passage(self, wanted: Mapping[str, str] = {}, clauses: Sequence[str] = CLAUSES) -> Passage:
        """A passage with the wanted facts."""
        while True:
            passage = tell(
                self.draw,
                draw_facts(self.draw, wanted),
                clauses=clauses,
                fillers=self.difficulty.fillers,
                noise=self.difficulty.noise,
            )
            if split_of(passage.text) == self.split:
                return passage

    def about(self, attribute: str) -> Passage:
        """A passage that tells an attribute, some of them short: what is asked of it is learned sooner there."""
        if self.draw.random() >= self.short:
            return self.passage()
        return self.passage(clauses=self._short(TOLD_BY.get(attribute) or self.draw.choice(CLAUSES)))

    def stated(self) -> tuple[Passage, str, bool]:
        """A passage, a sentence about it, and whether the sentence follows."""
        form, attributes = self.draw.choice(FORMS)
        passage = self.about(attributes[-1])
        sentence, follows = statement(self.draw, passage.facts, form, attributes)
        return passage, sentence, follows

    def two(self, attribute: str) -> tuple[Passage, Passage, bool]:
        """Two short passages that both tell an attribute, and whether they agree in it, which half of them do."""
        clause = TOLD_BY.get(attribute) or self.draw.choice(CLAUSES)
        first = self.passage(clauses=self._short(clause))
        right = first.facts[attribute]
        others = [value for value in ATTRIBUTES[attribute] if value != right]
        is_same = self.draw.random() < 0.5
        wanted = {attribute: right if is_same else self.draw.choice(others)}
        return first, self.passage(wanted, self._short(clause)), is_same

    def _short(self, clause: str) -> tuple[str, ...]:
        """The clauses of a short passage: this one, and half of the time another."""
        other = self.draw.choice([c for c in CLAUSES if c != clause])
        return (clause, other) if self.draw.random() < 0.5 else (clause,)
