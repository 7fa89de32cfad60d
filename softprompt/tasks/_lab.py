"""Tasks of the lab: passages of a small world whose every fact is known, for the built-in backbones.

Five families: a skill without the instruction that asks for it; the same with new label words; a new category over a
known attribute; pairs of texts; answers of several tokens. Rows are made when they are needed, offline, as many and
as hard as asked (`with_difficulty`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..errors import BadInput
from ..world import ATTRIBUTES, FAMILIES, check_options
from ._base import Task
from ._source import Source


def _task(
    name: str,
    family: str,
    labels: Sequence[str],
    *,
    values: Sequence[str] = (),
    template: str = "{passage}",
    **options: Any,
) -> Task:
    return Task(
        name=f"lab/{name}",
        source=Source(world=family, options=options),
        template=template,
        target="answer",
        labels=tuple(labels),
        label_values=tuple(values or labels),
        max_length=128,
    )


def _skill(attribute: str) -> Task:
    return _task(attribute, "attribute", ATTRIBUTES[attribute], attribute=attribute)


def _relabelled(attribute: str, words: Sequence[str]) -> Task:
    return _task(f"{attribute}-relabelled", "attribute", words, values=ATTRIBUTES[attribute], attribute=attribute)


def _category(name: str, attribute: str, members: Sequence[str]) -> Task:
    return _task(name, "membership", ("yes", "no"), attribute=attribute, members=tuple(members))


def _same(attribute: str) -> Task:
    return _task(f"same-{attribute}", "same", ("same", "different"), template="{first} / {second}", attribute=attribute)


def _several(name: str, attributes: Sequence[str]) -> Task:
    plain = _task(name, "several", (), attributes=tuple(attributes))
    return dataclasses.replace(plain, answer="text", metrics=("exact-match",))


LAB: tuple[Task, ...] = (
    *map(_skill, ("opinion", "topic", "gender", "color", "number", "day")),
    _relabelled("opinion", ("sun", "moon")),
    _relabelled("side", ("river", "stone")),
    _relabelled("topic", ("lion", "tiger", "horse", "eagle")),
    _category("warm", "color", ("red", "orange", "yellow")),
    _category("many", "number", ("six", "seven", "eight", "nine")),
    _category("weekend", "day", ("saturday", "sunday")),
    _task("entailment", "entailment", ("yes", "no"), template="{sentence} / {passage}"),
    _same("color"),
    _same("topic"),
    _several("purchase", ("number", "thing")),
    _several("item", ("color", "object")),
    _several("visit", ("buyer", "day")),
)


def with_difficulty(task: Task, **options: Any) -> Task:
    """A lab task with other rows, or harder ones.

    Args:
        task: of the lab.
        options: fields of `softprompt.world.Difficulty`, as in `noise=4, label_noise=0.1`.

    Raises:
        BadInput: a task that is not of the lab, or a value that cannot be.
        UnknownName: an option that does not exist, with the nearest.
    """
    if not options:
        return task
    if task.source.world not in FAMILIES:
        raise BadInput(f"task {task.name!r} has rows of its own; options make the rows of lab tasks only")
    merged = {**task.source.options, **options}
    check_options(task.source.world, merged)
    return dataclasses.replace(task, source=dataclasses.replace(task.source, options=merged))
