"""Evaluation mode for as long as something is measured, and no autocast: dropout would make answers random."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from ._turns import turn


@runtime_checkable
class _Backbone(Protocol):
    model: nn.Module


Options = ParamSpec("Options")
B = TypeVar("B", bound=_Backbone)
T = TypeVar("T")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the `with` block, a model is in evaluation mode, without autocast, and of one thread.

    Afterwards each of its modules is in the mode it had.
    """
    with turn(model):
        training = [module for module in model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with without_autocast():
                yield
        finally:
            for module in training:
                module.training = True


def in_evaluation(
    measure: Callable[Concatenate[B, Options], T],
) -> Callable[Concatenate[B, Options], T]:
    """Wrap a function of a backbone, so that the backbone's model is in evaluation mode for as long as it runs."""

    @wraps(measure)
    def measured(backbone: B, *given: Options.args, **named: Options.kwargs) -> T:
        with evaluating(backbone.model):
            return measure(backbone, *given, **named)

    return measured


@contextmanager
def without_autocast() -> Iterator[None]:
    """Inside the `with` block, torch computes in the precision of the tensors: engines write into tensors of theirs."""
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with ExitStack() as off:
        for kind in kinds:
            off.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def in_float32() -> Iterator[None]:
    """Inside the `with` block, new tensors are of float32, in which prompts are, whatever the program has set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
