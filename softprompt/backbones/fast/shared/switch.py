"""The switch of a model to our attention while a shared pass runs, and back; by thread and for each model alone."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from ..._products import Library
from .layout import Layout
from .products import FrozenProducts

# The name under which transformers finds our attention and its masks.
NAME = "softprompt_shared"
# The layout of the pass that runs in this thread.
_layout: ContextVar[Layout | None] = ContextVar("layout", default=None)
# The configurations that are switched to our attention in this thread, and the library of their products.
_here: ContextVar[tuple[Sequence[Any], Library | None]] = ContextVar("here", default=((), None))
# How many passes have switched a configuration, and the implementation that it had before.
_switched: dict[int, tuple[int, str]] = {}
_lock = threading.Lock()


@contextmanager
def switched(configs: Sequence[Any], products: Library | None = None) -> Iterator[None]:
    """Let the layers of these configurations call our attention within the `with` block, and then the user's again.

    Passes in other threads, which are no shared passes, get the attention that the configuration had before.

    Args:
        configs: all configurations of a model.
        products: the library that multiplies by frozen matrices.
    """
    token = _here.set((configs, products))
    with _lock:
        for config in configs:
            count, before = _switched.get(id(config), (0, config._attn_implementation_internal))
            _switched[id(config)] = count + 1, before
            config._attn_implementation_internal = NAME
    try:
        with FrozenProducts() if products == "onednn" else nullcontext():
            yield
    finally:
        with _lock:
            for config in configs:
                count, before = _switched.pop(id(config))
                if count > 1:
                    _switched[id(config)] = count - 1, before
                else:
                    config._attn_implementation_internal = before
        _here.reset(token)


@contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Make masks of this layout within the `with` block."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def current_layout() -> Layout | None:
    """Return the layout of the shared pass that runs in this thread, if there is one."""
    return _layout.get()


def recomputing() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a recomputed layer: of its first pass, and of the pass within the backward pass.

    The second one runs when the pass is over, perhaps in another thread, and needs the same attention.
    """
    configs, products = _here.get()
    return nullcontext(), switched(configs, products) if configs else nullcontext()


def chosen_by_user(config: Any) -> str:
    """Return the implementation that a switched configuration had before."""
    with _lock:
        _, before = _switched.get(id(config), (0, config._attn_implementation_internal))
    return before
