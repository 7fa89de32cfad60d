"""Rows of the lab's tasks: five families, three disjoint splits, as hard as asked."""

import dataclasses
import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from ..errors import BadInput, UnknownName, pick
from ._sampler import SPLITS, Difficulty, PassageSampler
from ._words import ATTRIBUTES

Row = dict[str, str]


def _attribute(tell: PassageSampler, *, attribute: str) -> Row:
    """One attribute of a passage."""
    passage = tell.passage()
    return {"passage": passage.text, "answer": passage.facts[_known(attribute)]}


def _membership(tell: PassageSampler, *, attribute: str, members: Sequence[str]) -> Row:
    """Whether an attribute has one of some values; yes and no equally often."""
    values = ATTRIBUTES[_known(attribute)]
    for member in members:
        if member not in values:
            raise UnknownName(attribute, member, values)
    is_member = tell.draw.random() < 0.5
    value = tell.draw.choice([v for v in values if (v in members) == is_member])
    return {"passage": tell.passage({attribute: value}).text, "answer": "yes" if is_member else "no"}


def _several(tell: PassageSampler, *, attributes: Sequence[str]) -> Row:
    """Several attributes of a passage, in this order."""
    passage = tell.passage()
    return {"passage": passage.text, "answer": " ".join(passage.facts[_known(a)] for a in attributes)}


def _entailment(tell: PassageSampler) -> Row:
    """Whether a sentence follows from a passage."""
    passage, sentence, follows = tell.stated()
    return {"sentence": sentence, "passage": passage.text, "answer": "yes" if follows else "no"}


def _same(tell: PassageSampler, *, attribute: str) -> Row:
    """Whether two short passages agree in an attribute."""
    first, second, is_same = tell.two(_known(attribute))
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
    """The function that makes rows of a family, its own options, and the difficulty that the others say.

    Raises:
        UnknownName: a family or option that does not exist.
        BadInput: a difficulty that cannot be.
    """
    make = pick("family of lab tasks", family, FAMILIES)
    own = set(inspect.signature(make).parameters) - {"tell"}
    fields = {field.name for field in dataclasses.fields(Difficulty)}
    for name in options:
        if name not in own | fields:
            raise UnknownName("option of a lab task", name, own | fields)
        if name in fields:
            _refuse_no_number(name, options[name])
    given = {name: value for name, value in options.items() if name in fields}
    if "label_noise" in given:
        given["label_noise"] = float(given["label_noise"])
    difficulty = Difficulty(**given)
    return make, {name: value for name, value in options.items() if name in own}, difficulty


def _refuse_no_number(name: str, value: Any) -> None:
    kinds = (int, float) if name == "label_noise" else (int,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise BadInput(f"{name} is a {'number' if float in kinds else 'whole number'}, not {value!r}")


def rows(family: str, split: str, options: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of one split of a lab task, all different, the same whenever they are asked for.

    Args:
        family: name in FAMILIES.
        split: "train", "validation" or "test".
        options: what the family needs (`attribute`, `members`, `attributes`), and any field of `Difficulty`.

    Raises:
        UnknownName: a family, split, attribute or option that does not exist.
        BadInput: a number of rows or a difficulty that cannot be.
    """
    make, told, difficulty = check_options(family, options)
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    sampler = PassageSampler(
        Random(f"{difficulty.seed}/{family}/{json.dumps(told, sort_keys=True)}/{split}"), split, difficulty
    )
    made = _different(lambda: make(sampler, **told), family)
    count: int = getattr(difficulty, split)
    yield from _noised(
        list(itertools.islice(made, count)), difficulty.label_noise if split == "train" else 0.0, sampler
    )


# So many draws in a row without a new row: the world has no more of them.
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
    """The rows, a share of them with the answer of another."""
    for row in made:
        if share and sampler.draw.random() < share:
            yield {**row, "answer": sampler.draw.choice(made)["answer"]}
        else:
            yield row
