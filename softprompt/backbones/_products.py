"""Which library multiplies float32 on a CPU for our own engines: oneDNN, or torch's own (MKL, mostly).

Which is faster depends on the processor: MKL has no AVX-512 on those of AMD, and there oneDNN is about twice as fast;
on an Intel Xeon it was 7 % slower. Both give the same but for rounding.
"""

import functools
import os
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UnknownName

Library = Literal["onednn", "torch"]
LIBRARIES: tuple[Library, ...] = ("onednn", "torch")
# Forces the choice: onednn, torch, or auto.
VARIABLE = "SOFTPROMPT_PRODUCTS"
# Absent from torch as it is built for some platforms.
HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
# What a layer of t5-small's width multiplies, in 2 to 8 ms of one thread: the whole probe takes less than 0.2 s.
ROWS, WIDTH, ROUNDS = 512, 512, 5
# torch's own has to be faster by this much, so that noise does not decide between equals.
CLEARLY = 0.97


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b by oneDNN's linear layer, which torch itself takes for other precisions than float32."""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def chosen_library(wanted: float = CLEARLY) -> Library:
    """The library that the environment forces, or the faster one here, which is measured once a process.

    Args:
        wanted: torch's own is taken where it takes less than so many times the time of oneDNN.

    Raises:
        UnknownName: the variable names no library.
    """
    forced = os.environ.get(VARIABLE, "auto")
    if forced not in ("auto", *LIBRARIES):
        raise UnknownName(f"library in {VARIABLE}", forced, ("auto", *LIBRARIES))
    if forced == "torch" or not HAS_ONEDNN:
        return "torch"
    return "onednn" if forced == "onednn" else faster_library(torch.get_num_threads(), wanted)


@functools.cache
def faster_library(threads: int, wanted: float = CLEARLY) -> Library:
    """The faster library with so many threads, by the fastest of a few products by each."""
    x, weight = torch.rand(2, ROWS, WIDTH).unbind()
    ours, theirs = (seconds_of(product, x, weight) for product in (by_onednn, functional.linear))
    return "torch" if theirs < wanted * ours else "onednn"


@torch.no_grad()
def seconds_of(product: Callable[[Tensor, Tensor], Any], x: Tensor, weight: Tensor) -> float:
    """The least time of a forward and a backward product of several, the first left out."""
    taken = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        product(x, weight)
        product(x, weight.t())
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])
