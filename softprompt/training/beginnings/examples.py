"""Labelled training rows with which a prompt begins: which they are, and whether the model has the positions."""

from collections.abc import Sequence

import torch

from ...backbones import AbstractBackbone
from ...data import Rows, few_shot, strata
from ...errors import BadInput
from ...inference.in_context import PROBED_ROWS, context_of
from ...inference.rows import answer_positions, examples_for
from ...prompts.seeds import stream_seed
from ...settings import PromptSettings, TrainSettings
from ...tasks import Task
from .._numbers import refuse_shots

# The right answer of a row: class id, number, or accepted texts.
Right = int | float | list[str]


def allowed_rows(task: Task, right: Sequence[Right], settings: TrainSettings, prompt: PromptSettings) -> list[int]:
    """The training rows that a prompt may see: all, or its own few-shot draw.

    Args:
        task: what is answered.
        right: the right answer of each training row.
        settings: how many are drawn.
        prompt: its seed draws them.
    """
    shots = settings.shots if settings.shots is not None else settings.shots_per_class
    if shots is None:
        return list(range(len(right)))
    refuse_shots(task)
    per_class, names = settings.shots is None, task.label_values or task.labels
    return few_shot(strata(right), shots=shots, per_class=per_class, seed=prompt.seeds.draw, names=names)


def context(
    backbone: AbstractBackbone, task: Task, rows: Rows, right: Sequence[Right], *, count: int, seed: int
) -> tuple[int, ...]:
    """The ids of the opening and of `count` labelled rows after it.

    Args:
        backbone: the frozen model.
        task: with its `opening_ids`.
        rows: those that the prompt learns from; the others stay unseen.
        right: their right answers.
        count: examples.
        seed: of the draw.

    Raises:
        BadInput: too few rows, or examples for which the model has no positions.
    """
    shown, probes = rows.select(drawn(right, count, seed)), rows.select(range(min(PROBED_ROWS, len(rows))))

    def ids_of(examples: int) -> tuple[int, ...]:
        return context_of(backbone, task, shown.select(range(examples)), probes)

    ids = ids_of(count)
    if backbone.max_positions is None:
        return ids
    longest = int(examples_for(backbone, task, rows, 0).lengths.max())
    room = backbone.max_positions - longest - answer_positions(backbone, task)
    if len(ids) <= room:
        return ids
    most = next((fewer for fewer in range(count - 1, 0, -1) if len(ids_of(fewer)) <= room), 0)
    remedy = f"give --init=examples:{most} at the most" if most else "no example fits"
    raise BadInput(
        f"--init=examples:{count}: {count} examples have {len(ids)} tokens, {backbone.name!r} has "
        f"{backbone.max_positions} positions, and the longest text with its answer needs "
        f"{backbone.max_positions - room} of them; {remedy}"
    )


def drawn(right: Sequence[Right], count: int, seed: int) -> list[int]:
    """Places of a class-balanced draw of rows, in an order that is drawn too.

    Args:
        right: the right answers of the rows.
        count: rows.
        seed: of draw and order.

    Raises:
        BadInput: there are fewer rows, or fewer of a class.
    """
    if count > len(right):
        raise BadInput(
            f"--init=examples:{count} shows {count} rows, and the prompt has {len(right)} to learn from; give fewer"
        )
    classes = strata(right)
    names = set(classes)
    fewest = min(classes.count(name) for name in names)
    if count // len(names) > fewest:
        raise BadInput(
            f"--init=examples:{count} shows {count // len(names)} rows of each class, and one class has {fewest}; give "
            f"--init=examples:{fewest * len(names)} at the most"
        )
    places = few_shot(classes, shots=count, seed=seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(stream_seed(seed, "order"))).tolist()
    return [places[place] for place in order]
