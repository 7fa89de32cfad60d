"""A prompt that begins as given vectors: which of them it takes, and how many it has where nothing else says it."""

import dataclasses

from jaxtyping import Float
from torch import Tensor

from ..settings import PromptSettings
from .methods import SIZES, Method
from .prompt import SoftPrompt

# Weights that mix their source prompts with a prompt of their own, position by position.
_AS_LONG_AS_SOURCES = ("attempt",)


def taken_from(source: SoftPrompt, m: int) -> Float[Tensor, "k e"]:
    """The vectors of a source: those that it stores where they are m, else as many as stand before a row."""
    return source.vectors if len(source.vectors) == m else source.expanded()


def deep_taken_from(source: SoftPrompt, m: int) -> Float[Tensor, "l k e"] | None:
    """The same of the layers after the first; None for an ordinary prompt."""
    return source.deep if len(source.vectors) == m else source.expanded_deep()


def may_follow(settings: PromptSettings) -> bool:
    """Whether the number of vectors may be that of a source: it is not given, and the method fixes and repeats none."""
    method = Method.of(settings)
    if settings.options.keys() & {*SIZES, "length"}:
        return False
    return method.weights in _AS_LONG_AS_SOURCES if method.weights else method.m > 1 and method.repeats == 1


def as_long_as(source: SoftPrompt, settings: PromptSettings) -> PromptSettings:
    """The settings of a prompt that begins at a source, with its number of vectors where that may follow."""
    method = Method.of(settings)
    own = method.prompt_length if method.weights else method.m
    count = len(taken_from(source, own))
    if count in (0, own) or not may_follow(settings):
        return settings
    return dataclasses.replace(settings, options={**settings.options, "prompt_length": count})
