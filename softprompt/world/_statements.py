"""Sentences about a passage that are true or false."""

from collections.abc import Mapping
from random import Random

from ._words import ATTRIBUTES

# Forms of a sentence, each with the attributes that it states. One clause of a passage states all of them.
FORMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the {item} was {opinion} .", ("opinion",)),
    ("the {object} was {color} .", ("object", "color")),
    ("the {object} was {size} .", ("object", "size")),
    ("the {object} was in the {place} .", ("object", "place")),
    ("the {object} was {side} .", ("object", "side")),
    ("{buyer} got {thing} .", ("buyer", "thing")),
    ("{buyer} got {number} {thing} .", ("buyer", "number", "thing")),
    ("{buyer} came on {day} .", ("buyer", "day")),
)


def statement(draw: Random, facts: Mapping[str, str], form: str, attributes: tuple[str, ...]) -> tuple[str, bool]:
    """Write a sentence of this form, which follows from the facts or has one wrong word with equal probability.

    Returns:
        The sentence, and whether it follows.
    """
    stated = dict(facts)
    if follows := draw.random() < 0.5:
        return form.format(**stated), follows
    wrong = draw.choice(attributes)
    stated[wrong] = draw.choice([value for value in ATTRIBUTES[wrong] if value != facts[wrong]])
    return form.format(**stated), follows
