"""Sentences about a passage, true or false of it."""

from collections.abc import Mapping
from random import Random

from ._words import ATTRIBUTES

# A sentence with the attributes that it states; all told by one clause.
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
    """The sentence of a form and whether it follows from the facts, equally often; if not, one word is another."""
    said = dict(facts)
    if follows := draw.random() < 0.5:
        return form.format(**said), follows
    wrong = draw.choice(attributes)
    said[wrong] = draw.choice([value for value in ATTRIBUTES[wrong] if value != facts[wrong]])
    return form.format(**said), follows
