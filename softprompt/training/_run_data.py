"""A run as it stands before its first step: what it trains, on which frozen model, and on which rows."""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..backbones import AbstractBackbone
from ..data import Examples, Ragged
from ..tasks import Task
from ._plan import Plan
from .beginnings.beginning import Beginning


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a fleet learns from.

    Args:
        plan: of the run; nothing in it is left to the backbone.
        backbone: frozen.
        train: the training rows, tokenised.
        validation: those that choose the best of each prompt.
        test: those that are scored at the end.
        beginnings: what each candidate for each prompt of the plan begins with.
    """

    plan: Plan
    backbone: AbstractBackbone
    train: Examples
    validation: Examples
    test: Examples
    beginnings: Sequence[Sequence[Beginning]]

    @property
    def task(self) -> Task:
        """What is answered."""
        return self.plan.task

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the token ids and targets of all splits: a resumed run must see the rows it started with."""
        return fingerprint_of((self.train, self.validation, self.test))


def fingerprint_of(parts_of_rows: Iterable[Examples]) -> str:
    """SHA-256 over the token ids and targets of rows."""
    digest = hashlib.sha256()
    for examples in parts_of_rows:
        targets = examples.targets
        parts = [examples.inputs.flat, examples.inputs.offsets]
        if isinstance(targets, Ragged):
            parts += [targets.flat, targets.offsets]
        elif targets is not None:
            parts.append(targets)
        for part in parts:
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()
