"""What a training needs of the program around it: gradients, no autocast, and a frozen model that no other one uses."""

import contextlib
import threading
from collections.abc import Iterator

import torch

from ..backbones import AbstractBackbone, in_float32, without_autocast
from ..errors import BadInput

# The thread that trains on each loaded model, by the model's id.
_THREADS: dict[int, int] = {}
_LOCK = threading.Lock()


@contextlib.contextmanager
def as_usual() -> Iterator[None]:
    """Inside the `with` block, torch is as a training needs it: with gradients, no autocast, and float32 by default."""
    with torch.inference_mode(False), torch.enable_grad(), without_autocast(), in_float32():
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
