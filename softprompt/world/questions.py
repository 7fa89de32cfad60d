"""What a backbone is taught: questions about passages, each with its instruction, its text and its answer."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ._sampler import SHORT, Difficulty, PassageSampler
from ._words import ATTRIBUTES, TOKENS

# An instruction never has one wording only.
FRAMES = ("what {} :", "which {} :", "name the {} :")


@dataclass(frozen=True)
class Question:
    """An instruction, a text below it, and the answer in one or several words."""

    instruction: str
    text: str
    answer: str

    @property
    def whole(self) -> str:
        """What the backbone reads."""
        return f"{self.instruction} {self.text}"


def _attribute(tell: PassageSampler, attribute: str = "") -> Question:
    """The value of one attribute."""
    # Praise and blame come in sixteen words, each of which a negation turns: harder than all others.
    attribute = attribute or tell.draw.choice((*ATTRIBUTES, "opinion", "opinion"))
    passage = tell.passage()
    return Question(tell.draw.choice(FRAMES).format(attribute), passage.text, passage.facts[attribute])


def _several(tell: PassageSampler) -> Question:
    """The values of two or three attributes, in the order asked."""
    attributes = tell.draw.sample(list(ATTRIBUTES), 2 if tell.draw.random() < 0.7 else 3)
    passage = tell.passage()
    instruction = tell.draw.choice(FRAMES).format(" and ".join(attributes))
    return Question(instruction, passage.text, " ".join(passage.facts[a] for a in attributes))


def _membership(tell: PassageSampler) -> Question:
    """Whether the value is one of one to four: yes or no, equally often."""
    attribute = _any(tell)
    passage = tell.about(attribute)
    right = passage.facts[attribute]
    others = [value for value in ATTRIBUTES[attribute] if value != right]
    # One value half of the time: the comparison is learned there, its repetition later.
    most = min(tell.draw.choice((1, 4)), len(others))
    listed = tell.draw.sample(others, tell.draw.randint(1, most))
    if is_member := tell.draw.random() < 0.5:
        listed[tell.draw.randrange(len(listed))] = right
    return Question(f"is it {' or '.join(listed)} :", passage.text, "yes" if is_member else "no")


def _label_words(tell: PassageSampler) -> Question:
    """One word if the value is this, another if not, both said in the instruction: a verbaliser on demand."""
    attribute = _any(tell)
    passage = tell.about(attribute)
    right = passage.facts[attribute]
    others = [value for value in ATTRIBUTES[attribute] if value != right]
    value = right if tell.draw.random() < 0.5 else tell.draw.choice(others)
    yes, no = tell.draw.sample(TOKENS, 2)
    return Question(f"say {yes} if {value} else {no} :", passage.text, yes if value == right else no)


def _entailment(tell: PassageSampler) -> Question:
    """Whether a sentence follows from a passage: yes or no, equally often."""
    passage, sentence, follows = tell.stated()
    instruction = tell.draw.choice(("does it follow :", "is it true :"))
    return Question(instruction, f"{sentence} / {passage.text}", "yes" if follows else "no")


def _same(tell: PassageSampler) -> Question:
    """Whether two passages agree in an attribute: same or different, equally often."""
    attribute = _any(tell)
    first, second, is_same = tell.two(attribute)
    instruction = tell.draw.choice(("same {} :", "compare the {} :")).format(attribute)
    return Question(instruction, f"{first.text} / {second.text}", "same" if is_same else "different")


def _one_of_two(tell: PassageSampler) -> Question:
    """The value of an attribute in the first or in the second of two passages."""
    attribute = _any(tell)
    first, second, _ = tell.two(attribute)
    which, passage = tell.draw.choice((("first", first), ("second", second)))
    return Question(f"{which} {attribute} :", f"{first.text} / {second.text}", passage.facts[attribute])


def _any(tell: PassageSampler) -> str:
    return tell.draw.choice(list(ATTRIBUTES))


KINDS: dict[str, Callable[[PassageSampler], Question]] = {
    "attribute": _attribute,
    "several": _several,
    "membership": _membership,
    "label-words": _label_words,
    "entailment": _entailment,
    "same": _same,
    "one-of-two": _one_of_two,
}
# What a backbone learns from: the share of each kind.
MIX: dict[str, float] = {
    "attribute": 0.24,
    "several": 0.10,
    "membership": 0.16,
    "label-words": 0.18,
    "entailment": 0.15,
    "same": 0.13,
    "one-of-two": 0.04,
}


def question(
    draw: Random, kind: str = "", *, attribute: str = "", split: str = "train", short: float = SHORT
) -> Question:
    """One question about fresh passages of a split, lightly filled and noised.

    Args:
        draw: where everything random comes from.
        kind: name in KINDS; empty draws one by MIX.
        attribute: which, for the kind "attribute"; empty draws one.
        split: "train" for pretraining; the others measure what was learned.
        short: share of short passages (0..1) where something is asked of an attribute's value.
    """
    difficulty = Difficulty(fillers=draw.choice((0, 0, 1)), noise=draw.choice((0, 0, 1, 2)))
    tell = PassageSampler(draw, split, difficulty, short)
    if attribute:
        return _attribute(tell, attribute)
    return KINDS[kind or draw.choices(list(MIX), list(MIX.values()))[0]](tell)
