"""Rows of the lab's tasks: five families and three disjoint splits, with a chosen difficulty."""

import dataclasses
import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from ..documents import refuse_more
from ..errors import BadInput, UnknownName, pick
from ._sampler import SPLITS, Difficulty, PassageSampler
from ._words import ATTRIBUTES

Row = dict[str, str]


def _attribute(sampler: PassageSampler, *, attribute: str) -> Row:
    """Make a row that asks for one attribute of a passage."""
    passage = sampler.passage()
    return {"passage": passage.text, "answer": passage.facts[_known(attribute)]}


def _membership(sampler: PassageSampler, *, attribute: str, members: Sequence[str]) -> Row:
    """Make a row that asks whether an attribute has one of some values. Yes and no are equally likely."""
    values = ATTRIBUTES[_known(attribute)]
    for member in members:
        if member not in values:
            raise UnknownName(attribute, member, values)
    is_member = sampler.draw.random() < 0.5
    value = sampler.draw.choice([v for v in values if (v in members) == is_member])
    return {"passage": sampler.passage({attribute: value}).text, "answer": "yes" if is_member else "no"}


def _several(sampler: PassageSampler, *, attributes: Sequence[str]) -> Row:
    """Make a row that asks for several attributes of a passage, in this order."""
    passage = sampler.passage()
    return {"passage": passage.text, "answer": " ".join(passage.facts[_known(a)] for a in attributes)}


def _entailment(sampler: PassageSampler) -> Row:
    """Make a row that asks whether a sentence follows from a passage."""
    passage, sentence, follows = sampler.stated()
    return {"sentence": sentence, "passage": passage.text, "answer": "yes" if follows else "no"}


def _same(sampler: PassageSampler, *, attribute: str) -> Row:
    """Make a row that asks whether two short passages agree in an attribute."""
    first, second, is_same = sampler.two(_known(attribute))
    return {"first": first.text, "second": second.text, "answer": "same" if is_same else "different"}


def _known(attribute: str) -> str:
    pick("attribute", attribute, ATTRIBUTES)
    return attribute


FAMILIES: dict[str, Callable[..., Row]] = {
    "attribute": _attribute,
    "membership": _membership,
    "several": _several,
    "entailment": _entailment,
    "same": _same,
}


def check_options(family: str, options: Mapping[str, Any]) -> tuple[Callable[..., Row], dict[str, Any], Difficulty]:
    """Split options into those of the family and those of the difficulty.

    Returns:
        The function that makes rows of the family, the options of this function, and the difficulty.

    Raises:
        UnknownName: the family or an option does not exist.
        BadInput: the difficulty is impossible.
    """
    make = pick("family of lab tasks", family, FAMILIES)
    of_family = set(inspect.signature(make).parameters) - {"sampler"}
    fields = {field.name for field in dataclasses.fields(Difficulty)}
    for name in options:
        if name not in of_family | fields:
            raise UnknownName("option of a lab task", name, of_family | fields)
        if name in fields:
            _refuse_no_number(name, options[name])
    for name in of_family:
        _refuse_no_words(name, options.get(name))
    given = {name: value for name, value in options.items() if name in fields}
    if "label_noise" in given:
        given["label_noise"] = float(given["label_noise"])
    difficulty = Difficulty(**given)
    return make, {name: value for name, value in options.items() if name in of_family}, difficulty


def _refuse_no_words(name: str, value: Any) -> None:
    """Refuse an option of a family that is missing or of another kind: a word, or several where its name says so."""
    several = name.endswith("s")
    words = value if several and isinstance(value, list | tuple) else () if several else (value,)
    if not words or not all(isinstance(word, str) for word in words):
        raise BadInput(f"{name} of a lab task is {'a list of words' if several else 'a word'}, not {value!r}")


def _refuse_no_number(name: str, value: Any) -> None:
    kinds = (int, float) if name == "label_noise" else (int,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise BadInput(f"{name} is a {'number' if float in kinds else 'whole number'}, not {value!r}")


def rows(family: str, split: str, options: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of one split of a lab task. All rows differ, and the same arguments always give the same rows.

    Args:
        family: a name in FAMILIES.
        split: "train", "validation" or "test".
        options: the options of the family (`attribute`, `members`, `attributes`), and any field of `Difficulty`.

    Raises:
        UnknownName: the family, split, attribute or an option does not exist.
        BadInput: the number of rows or the difficulty is impossible.
    """
    make, family_options, difficulty = check_options(family, options)
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    sampler = PassageSampler(
        Random(f"{difficulty.seed}/{family}/{json.dumps(family_options, sort_keys=True)}/{split}"), split, difficulty
    )
    made = _different(lambda: make(sampler, **family_options), family)
    count: int = getattr(difficulty, split)
    refuse_more("rows", count, f"this laboratory task asks for {count} {split} rows")
    yield from _noised(
        list(itertools.islice(made, count)), difficulty.label_noise if split == "train" else 0.0, sampler
    )


# After this many draws in a row without a new row, the world counts as exhausted.
EXHAUSTED = 10_000


def _different(make: Callable[[], Row], family: str) -> Iterator[Row]:
    seen: set[tuple[str, ...]] = set()
    repeated = 0
    while repeated < EXHAUSTED:
        row = make()
        text = tuple(row.values())[:-1]
        if text in seen:
            repeated += 1
            continue
        seen.add(text)
        repeated = 0
        yield row
    raise BadInput(f"the world has about {len(seen)} different rows of the family {family!r}; ask for fewer")


def _noised(made: list[Row], share: float, sampler: PassageSampler) -> Iterator[Row]:
    """Yield the rows, a share of which get the answer of another row."""
    for row in made:
        if share and sampler.draw.random() < share:
            yield {**row, "answer": sampler.draw.choice(made)["answer"]}
        else:
            yield row
