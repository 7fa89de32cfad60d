"""The list of all methods with what each trains: `softprompt methods list`."""

from typing import TypedDict, final

from ..settings import PromptSettings
from .methods import METHODS, Method, Units
from .reparam import require_positive


@final
class MethodRecord(TypedDict):
    """One line of `softprompt methods list`."""

    method: str
    prompt_length: int
    trainable: int | None
    stored: int | None
    units: Units
    lr: float | None


def describe(width: int, layers: int = 1, *, in_decoder: bool = False) -> list[MethodRecord]:
    """List every method with its prompt length, trainable and stored parameters, units and learning rate.

    The parameters are counted without allocating the networks. How many weights of a model a method trains depends on
    more than its width: their counts are None here.

    Args:
        width: embedding size.
        layers: number of layers that a prompt enters: 1, or the depth of the frozen model for deep prompts.
        in_decoder: whether the frozen model is a decoder, for which all n vectors of a deep prompt's layers are stored.

    Raises:
        BadInput: `width` or `layers` is below 1.
    """
    require_positive(width=width, layers=layers)
    return [
        MethodRecord(
            method=method.name,
            prompt_length=method.prompt_length,
            trainable=None if method.weights else method.trainable(width, layers),
            stored=None if method.weights else method.stored(width, layers, in_decoder=in_decoder),
            units=method.units,
            lr=_rate(method, is_deep=layers > 1),
        )
        for method in METHODS.values()
    ]


def _rate(method: Method, *, is_deep: bool) -> float | None:
    """Return the default learning rate in the method's units; a linear head alone has none of these."""
    if not method.m and not method.weights:
        return None
    return method.resolved(PromptSettings(method=method.name, deep=is_deep and not method.weights)).lr
