"""A sampler of passages that belong to one split, with a chosen difficulty."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from ..errors import BadInput
from ._passages import CLAUSES, Passage, draw_facts, write_passage
from ._statements import FORMS, statement
from ._words import ATTRIBUTES, CLAUSE_OF

SPLITS = ("train", "validation", "test")


def split_of(text: str) -> str:
    """Return the split of a passage. It depends on the text alone, so no passage is in two splits.

    CRC-32 of the text modulo 8 decides: 0 is validation, 1 is test, and the rest is training, which includes the
    pretraining of the backbones.
    """
    return {0: "validation", 1: "test"}.get(zlib.crc32(text.encode()) % 8, "train")


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """The number of rows, and how hard they are.

    Args:
        seed: seed of the rows; another seed gives other rows of the same splits.
        train: number of rows of the training split.
        validation: number of rows of the validation split.
        test: number of rows of the test split.
        fillers: number of sentences without facts that are added to each passage.
        noise: number of meaningless words that are inserted into each passage.
        label_noise: share of training rows (0..1) that get the answer of another row.

    Raises:
        BadInput: a number is out of its range.
    """

    seed: int = 0
    train: int = 4000
    validation: int = 500
    test: int = 1000
    fillers: int = 0
    noise: int = 0
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        for name in SPLITS:
            if getattr(self, name) < 1:
                raise BadInput(f"a lab task needs at least one {name} row, not {getattr(self, name)}")
        if self.fillers < 0 or self.noise < 0:
            raise BadInput(f"fillers and noise are counts, not {min(self.fillers, self.noise)}")
        if not 0 <= self.label_noise <= 1:
            raise BadInput(f"label_noise is a share of the rows, 0 to 1, not {self.label_noise}")


# Share of short passages in questions about the value of an attribute.
SHORT = 1 / 3


@dataclass(frozen=True)
class PassageSampler:
    """Draws passages of one split.

    Args:
        draw: the source of all randomness.
        split: "train", "validation" or "test".
        difficulty: fillers and noise of each passage.
        short: share of short passages (0..1) in `about`.
    """

    draw: Random
    split: str
    difficulty: Difficulty
    short: float = SHORT

    def passage(self, fixed: Mapping[str, str] = {}, clauses: Sequence[str] = CLAUSES) -> Passage:
        """Draw a passage with the fixed facts."""
        while True:
            passage = write_passage(
                self.draw,
                draw_facts(self.draw, fixed),
                clauses=clauses,
                fillers=self.difficulty.fillers,
                noise=self.difficulty.noise,
            )
            if split_of(passage.text) == self.split:
                return passage

    def about(self, attribute: str) -> Passage:
        """Draw a passage that states an attribute. Some are short, because a backbone learns from these sooner."""
        if self.draw.random() >= self.short:
            return self.passage()
        return self.passage(clauses=self._short(CLAUSE_OF.get(attribute) or self.draw.choice(CLAUSES)))

    def stated(self) -> tuple[Passage, str, bool]:
        """Draw a passage, a sentence about it, and whether the sentence follows."""
        form, attributes = self.draw.choice(FORMS)
        passage = self.about(attributes[-1])
        sentence, follows = statement(self.draw, passage.facts, form, attributes)
        return passage, sentence, follows

    def two(self, attribute: str) -> tuple[Passage, Passage, bool]:
        """Draw two short passages that state an attribute, and whether they agree in it, as half of the pairs do."""
        clause = CLAUSE_OF.get(attribute) or self.draw.choice(CLAUSES)
        first = self.passage(clauses=self._short(clause))
        right = first.facts[attribute]
        others = [value for value in ATTRIBUTES[attribute] if value != right]
        is_same = self.draw.random() < 0.5
        fixed = {attribute: right if is_same else self.draw.choice(others)}
        return first, self.passage(fixed, self._short(clause)), is_same

    def _short(self, clause: str) -> tuple[str, ...]:
        """Draw the clauses of a short passage: this clause, and another one half of the time."""
        other = self.draw.choice([c for c in CLAUSES if c != clause])
        return (clause, other) if self.draw.random() < 0.5 else (clause,)
