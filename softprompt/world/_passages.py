"""Facts, and the passages that state them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from ._words import (
    BLAME,
    COLORS,
    DAYS,
    FILLERS,
    ITEMS,
    LARGE,
    NAMES,
    NOISE,
    NUMBERS,
    OBJECTS,
    PLACES,
    PRAISE,
    SMALL,
    THINGS,
)

CLAUSES = ("review", "scene", "trade")


@dataclass(frozen=True)
class Passage:
    """The facts of a passage by attribute (and the reviewed item), and the text that states them."""

    facts: Mapping[str, str]
    text: str


def draw_facts(draw: Random, fixed: Mapping[str, str] = {}) -> dict[str, str]:
    """Draw the facts of one passage. Each attribute is uniform unless `fixed` gives its value.

    Topic, side and gender follow from item, place and buyer, which are drawn to fit.
    """
    return {
        **_with_kind(draw, "item", "topic", ITEMS, fixed),
        **_with_kind(draw, "place", "side", PLACES, fixed),
        **_with_kind(draw, "buyer", "gender", NAMES, fixed),
        "opinion": fixed.get("opinion") or draw.choice(("good", "bad")),
        "color": fixed.get("color") or draw.choice(COLORS),
        "object": fixed.get("object") or draw.choice(OBJECTS),
        "size": fixed.get("size") or draw.choice(("big", "small")),
        "number": fixed.get("number") or draw.choice(NUMBERS),
        "thing": fixed.get("thing") or draw.choice(THINGS),
        "day": fixed.get("day") or draw.choice(DAYS),
        "tense": fixed.get("tense") or draw.choice(("past", "present")),
    }


def _with_kind(
    draw: Random, name: str, kind: str, kinds: Mapping[str, str], fixed: Mapping[str, str]
) -> dict[str, str]:
    value = fixed.get(name) or draw.choice([word for word in kinds if fixed.get(kind) in (None, kinds[word])])
    return {name: value, kind: kinds[value]}


def write_passage(
    draw: Random,
    facts: Mapping[str, str],
    *,
    clauses: Sequence[str] = CLAUSES,
    fillers: int = 0,
    noise: int = 0,
) -> Passage:
    """Write a passage of these clauses and some fillers in random order, with random noise words inserted."""
    parts = [_CLAUSE_WRITERS[clause](draw, facts) for clause in clauses] + draw.choices(FILLERS, k=fillers)
    draw.shuffle(parts)
    words = " ".join(parts).split()
    for _ in range(noise):
        words.insert(draw.randrange(len(words)), draw.choice(NOISE))
    return Passage(facts, " ".join(words))


def _review(draw: Random, facts: Mapping[str, str]) -> str:
    """Write one clause of praise or blame. A negation reverses the meaning of the adjective."""
    was, finds, item = _was(facts), "found" if facts["tense"] == "past" else "finds", facts["item"]
    negated = draw.random() < 0.2
    adjective = draw.choice(PRAISE if (facts["opinion"] == "good") != negated else BLAME)
    if draw.random() < 0.6:
        return f"the {item} {was} {'not ' if negated else ''}{adjective} ."
    return f"{'nobody' if negated else 'everybody'} {finds} the {item} {adjective} ."


def _scene(draw: Random, facts: Mapping[str, str]) -> str:
    what = f"{draw.choice(LARGE if facts['size'] == 'big' else SMALL)} {facts['color']} {facts['object']}"
    was, where = _was(facts), f"in the {facts['place']}"
    if draw.random() < 0.5:
        return f"the {what} {was} {where} ."
    return f"{where} there {was} a {what} ."


def _trade(draw: Random, facts: Mapping[str, str]) -> str:
    verb = draw.choice(("bought", "ordered", "took") if facts["tense"] == "past" else ("buys", "orders", "takes"))
    deed, when = f"{facts['buyer']} {verb} {facts['number']} {facts['thing']}", f"on {facts['day']}"
    return f"{deed} {when} ." if draw.random() < 0.5 else f"{when} {deed} ."


def _was(facts: Mapping[str, str]) -> str:
    return "was" if facts["tense"] == "past" else "is"


_CLAUSE_WRITERS = {"review": _review, "scene": _scene, "trade": _trade}
