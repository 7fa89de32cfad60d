"""Facts, and the passages that tell them."""

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
    TOLD_BY,
)

CLAUSES = ("review", "scene", "trade")


@dataclass(frozen=True)
class Passage:
    """What is so, by attribute (and the reviewed item), and the text that tells it."""

    facts: Mapping[str, str]
    text: str


def draw_facts(draw: Random, wanted: Mapping[str, str] = {}) -> dict[str, str]:
    """Facts of one passage: every attribute uniform, those in `wanted` given.

    Topic, side and gender follow from item, place and buyer, which are drawn to fit.
    """
    return {
        **_with_kind(draw, "item", "topic", ITEMS, wanted),
        **_with_kind(draw, "place", "side", PLACES, wanted),
        **_with_kind(draw, "buyer", "gender", NAMES, wanted),
        "opinion": wanted.get("opinion") or draw.choice(("good", "bad")),
        "color": wanted.get("color") or draw.choice(COLORS),
        "object": wanted.get("object") or draw.choice(OBJECTS),
        "size": wanted.get("size") or draw.choice(("big", "small")),
        "number": wanted.get("number") or draw.choice(NUMBERS),
        "thing": wanted.get("thing") or draw.choice(THINGS),
        "day": wanted.get("day") or draw.choice(DAYS),
        "tense": wanted.get("tense") or draw.choice(("past", "present")),
    }


def _with_kind(
    draw: Random, name: str, kind: str, kinds: Mapping[str, str], wanted: Mapping[str, str]
) -> dict[str, str]:
    value = wanted.get(name) or draw.choice([word for word in kinds if wanted.get(kind) in (None, kinds[word])])
    return {name: value, kind: kinds[value]}


def tell(
    draw: Random,
    facts: Mapping[str, str],
    *,
    clauses: Sequence[str] = CLAUSES,
    fillers: int = 0,
    noise: int = 0,
) -> Passage:
    """A passage of these clauses and some fillers in random order, with random words of noise strewn in."""
    parts = [_SAMPLERS[clause](draw, facts) for clause in clauses] + draw.choices(FILLERS, k=fillers)
    draw.shuffle(parts)
    words = " ".join(parts).split()
    for _ in range(noise):
        words.insert(draw.randrange(len(words)), draw.choice(NOISE))
    return Passage(facts, " ".join(words))


def told_by(attribute: str, draw: Random) -> str:
    """The clause that tells an attribute; any of them tells the tense."""
    return TOLD_BY.get(attribute) or draw.choice(CLAUSES)


def _review(draw: Random, facts: Mapping[str, str]) -> str:
    """One clause of praise or blame; a negation turns the adjective's meaning."""
    was, found, item = _was(facts), "found" if facts["tense"] == "past" else "finds", facts["item"]
    negated = draw.random() < 0.2
    adjective = draw.choice(PRAISE if (facts["opinion"] == "good") != negated else BLAME)
    if draw.random() < 0.6:
        return f"the {item} {was} {'not ' if negated else ''}{adjective} ."
    return f"{'nobody' if negated else 'everybody'} {found} the {item} {adjective} ."


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


_SAMPLERS = {"review": _review, "scene": _scene, "trade": _trade}
