"""What a training needs of the program around it: gradients, no autocast, and a frozen model that no other one uses."""

import contextlib
import threading
from collections.abc import Iterator

import torch

from ..backbones import AbstractBackbone, without_autocast
from ..errors import BadInput

# The thread that trains on each loaded model, by the model's id.
_THREADS: dict[int, int] = {}
_LOCK = threading.Lock()


@contextlib.contextmanager
def with_gradients() -> Iterator[None]:
    """Inside the `with` block, torch records gradients and computes in the model's precision, as a training needs."""
    with torch.inference_mode(False), torch.enable_grad(), without_autocast():
        yield


@contextlib.contextmanager
def alone_on(backbone: AbstractBackbone) -> Iterator[None]:
    """Inside the `with` block, no other thread trains on this loaded model; a callback may, as it comes in between.

    Raises:
        BadInput: another thread trains on it.
    """
    here, key = threading.get_ident(), id(backbone)
    with _LOCK:
        before = _THREADS.get(key)
        if before not in (None, here):
            raise BadInput(
                f"another thread trains on {backbone.name!r}, and both would change what it computes; load a model for "
                "each thread, or train one after the other"
            )
        _THREADS[key] = here
    try:
        yield
    finally:
        if before is None:
            del _THREADS[key]
