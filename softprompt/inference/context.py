"""Labelled examples in context: a few training rows with their answers, before the row that is asked."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from ..backbones import AbstractBackbone
from ..data import Rows, few_shot, strata
from ..tasks import Task, gold
from .in_context import labelled_text


def drawn_examples(task: Task, rows: Rows, shots: int, seed: int) -> list[dict[str, Any]]:
    """Training rows for a context, balanced by class and in random order.

    Args:
        task: says the class of a row.
        rows: training rows.
        shots: how many; at least one for each class is drawn.
        seed: of rows and order.

    Raises:
        BadInput: a class with too few rows.
    """
    classes = strata([gold(task, row) for row in rows])
    chosen = few_shot(classes, shots=max(shots, len(set(classes))), seed=seed)
    random.Random(seed).shuffle(chosen)
    return [rows[index] for index in chosen]


def written(backbone: AbstractBackbone, task: Task, examples: Sequence[Mapping[str, Any]]) -> str:
    """The examples as text, each with its answer, as they stand before a row."""
    return "".join(labelled_text(backbone, task, row) for row in examples)
