"""One thread at a time on a loaded model: its passes hang hooks on it, and trained weights take the places of its own.

Threads that share a model would see each other's hooks and weights, and their answers would be wrong without an error.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: WeakKeyDictionary[nn.Module, AbstractContextManager[Any]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def turn(model: nn.Module) -> AbstractContextManager[Any]:
    """Within, no other thread computes with this model. A thread may take its turn again within it.

    A turn is taken before the generators are seeded (`prompts/seeds.py`), never the other way round.

    Args:
        model: what transformers loaded; the same, wrapped by PEFT, is the same model.
    """
    inner = getattr(model, "get_base_model", None)
    with _LOCK:
        return _LOCKS.setdefault(model if inner is None else inner(), threading.RLock())


def in_turn(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of a backbone, so that no other thread computes with its model for as long as it runs."""

    @wraps(method)
    def alone(backbone: Any, *given: Any, **named: Any) -> Any:
        with turn(backbone.model):
            return method(backbone, *given, **named)

    return alone
