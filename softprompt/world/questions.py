"""The questions for pretraining backbones: each has an instruction, a text with passages, and an answer."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ._sampler import SHORT, Difficulty, PassageSampler
from ._words import ATTRIBUTES, TOKENS

# Each instruction has several wordings.
FRAMES = ("what {} :", "which {} :", "name the {} :")


@dataclass(frozen=True)
class Question:
    """An instruction, a text below it, and the answer in one or several words."""

    instruction: str
    text: str
    answer: str

    @property
    def whole(self) -> str:
        """The input of the backbone: the instruction and the text."""
        return f"{self.instruction} {self.text}"


def _attribute(sampler: PassageSampler, attribute: str = "") -> Question:
    """Ask for the value of one attribute."""
    # The opinion is drawn more often, because it is the hardest: sixteen words express it, and negations reverse them.
    attribute = attribute or sampler.draw.choice((*ATTRIBUTES, "opinion", "opinion"))
    passage = sampler.passage()
    return Question(sampler.draw.choice(FRAMES).format(attribute), passage.text, passage.facts[attribute])


def _several(sampler: PassageSampler) -> Question:
    """Ask for the values of two or three attributes, in the order of the instruction."""
    attributes = sampler.draw.sample(list(ATTRIBUTES), 2 if sampler.draw.random() < 0.7 else 3)
    passage = sampler.passage()
    instruction = sampler.draw.choice(FRAMES).format(" and ".join(attributes))
    return Question(instruction, passage.text, " ".join(passage.facts[a] for a in attributes))


def _membership(sampler: PassageSampler) -> Question:
    """Ask whether the value is one of one to four listed values. Yes and no are equally likely."""
    attribute = _any(sampler)
    passage = sampler.about(attribute)
    right = passage.facts[attribute]
    others = [value for value in ATTRIBUTES[attribute] if value != right]
    # Half of the lists have one value: a backbone learns the comparison from these, and longer lists later.
    most = min(sampler.draw.choice((1, 4)), len(others))
    listed = sampler.draw.sample(others, sampler.draw.randint(1, most))
    if is_member := sampler.draw.random() < 0.5:
        listed[sampler.draw.randrange(len(listed))] = right
    return Question(f"is it {' or '.join(listed)} :", passage.text, "yes" if is_member else "no")


def _label_words(sampler: PassageSampler) -> Question:
    """Ask for one word if the attribute has a value, and for another if not. The instruction gives both words."""
    attribute = _any(sampler)
    passage = sampler.about(attribute)
    right = passage.facts[attribute]
    others = [value for value in ATTRIBUTES[attribute] if value != right]
    value = right if sampler.draw.random() < 0.5 else sampler.draw.choice(others)
    yes, no = sampler.draw.sample(TOKENS, 2)
    return Question(f"say {yes} if {value} else {no} :", passage.text, yes if value == right else no)


def _entailment(sampler: PassageSampler) -> Question:
    """Ask whether a sentence follows from a passage. Yes and no are equally likely."""
    passage, sentence, follows = sampler.stated()
    instruction = sampler.draw.choice(("does it follow :", "is it true :"))
    return Question(instruction, f"{sentence} / {passage.text}", "yes" if follows else "no")


def _same(sampler: PassageSampler) -> Question:
    """Ask whether two passages agree in an attribute. Both answers are equally likely."""
    attribute = _any(sampler)
    first, second, is_same = sampler.two(attribute)
    instruction = sampler.draw.choice(("same {} :", "compare the {} :")).format(attribute)
    return Question(instruction, f"{first.text} / {second.text}", "same" if is_same else "different")


def _one_of_two(sampler: PassageSampler) -> Question:
    """Ask for the value of an attribute in the first or in the second of two passages."""
    attribute = _any(sampler)
    first, second, _ = sampler.two(attribute)
    which, passage = sampler.draw.choice((("first", first), ("second", second)))
    return Question(f"{which} {attribute} :", f"{first.text} / {second.text}", passage.facts[attribute])


def _any(sampler: PassageSampler) -> str:
    return sampler.draw.choice(list(ATTRIBUTES))


KINDS: dict[str, Callable[[PassageSampler], Question]] = {
    "attribute": _attribute,
    "several": _several,
    "membership": _membership,
    "label-words": _label_words,
    "entailment": _entailment,
    "same": _same,
    "one-of-two": _one_of_two,
}
# The share of each kind in the pretraining of a backbone.
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
    """Draw one question about new passages of a split, with few fillers and little noise.

    Args:
        draw: the source of all randomness.
        kind: a name in KINDS; empty draws one by MIX.
        attribute: the attribute of a question of kind "attribute"; empty draws one.
        split: "train" for pretraining; the other splits measure what was learned.
        short: share of short passages (0..1) in questions about the value of an attribute.
    """
    difficulty = Difficulty(fillers=draw.choice((0, 0, 1)), noise=draw.choice((0, 0, 1, 2)))
    sampler = PassageSampler(draw, split, difficulty, short)
    if attribute:
        return _attribute(sampler, attribute)
    return KINDS[kind or draw.choices(list(MIX), list(MIX.values()))[0]](sampler)
