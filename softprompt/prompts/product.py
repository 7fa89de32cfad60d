"""The prompts of a run: the product of methods, learning rates and seeds."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ..settings import PromptSettings, Seeds
from .methods import METHODS


def product(
    shared: PromptSettings,
    methods: Sequence[str],
    rates: Sequence[float | None],
    seeds: Sequence[Seeds],
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[PromptSettings]:
    """One prompt for each method, learning rate and seed, nested in this order.

    Args:
        shared: what all prompts have; its sources are for the methods that take any.
        methods: their names, which may be unknown.
        rates: None is the method's own.
        seeds: of each prompt.
        options: of each method, in place of the shared ones.
    """
    options = {} if options is None else options
    return [
        dataclasses.replace(
            shared,
            method=method,
            options=options.get(method, shared.options),
            lr=lr,
            sources=_sources_for(method, methods, shared.sources),
            seeds=seed,
        )
        for method, lr, seed in itertools.product(methods, rates, seeds)
    ]


def _sources_for(method: str, methods: Sequence[str], sources: Sequence[str]) -> Sequence[str]:
    """The source prompts for one of several methods. Where none takes any, all get them, and are refused."""
    takers = [name for name in methods if name in METHODS and METHODS[name].takes_sources]
    return sources if method in takers or not takers else ()
