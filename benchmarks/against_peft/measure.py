"""What a pass costs: seconds, floating-point operations, kept activations, peak memory; and what the machine can do."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# oneDNN's linear layer; None where torch is built without it.
ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """How long it takes: time of the process's CPU where one thread computes, else time of the clock.

    On a machine with other work, the first is the steadier; with several threads it would be their sum.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    _wait(device)
    start = clock()
    run()
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations a second in one product of two square matrices of this size, by the faster library.

    On CPUs torch multiplies by MKL, which knows no AVX-512 on processors of AMD; oneDNN does.
    """
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    products: list[Callable[[], Tensor]] = [lambda: matrix @ matrix]
    if device.type == "cpu" and dtype == torch.float32 and ONEDNN is not None:
        products.append(lambda: ONEDNN(matrix, matrix, None, "none", [], ""))
    return 2 * size**3 / min(seconds(product, device) for product in products)


def flops(run: Callable[[], object]) -> int:
    """Operations of all matrix products, attention's included: multiplications and additions."""
    with FlopCounterMode(display=False, custom_mapping=_UNKNOWN) as counter:
        run()
    return counter.get_total_flops()


def _attention(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient, query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def _product(x, weight, *args, out_shape=None, **kwargs) -> int:
    return 2 * math.prod(x) * weight[0]


# What torch's counter does not know, and would count as nothing: CPUs' fused attention, and oneDNN's linear layer.
_UNKNOWN: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    **({} if ONEDNN is None else {ONEDNN: _product}),
}


def kept_bytes(run: Callable[[], object]) -> int:
    """Bytes saved for the backward pass, the most at once, of what is gone when `run` has ended; each storage once.

    What is still there afterwards was no activation: weights, also fused or folded ones, and cached tables. Tensors
    that a custom function keeps without `save_for_backward` are not seen here, but in `peak_bytes`.
    """
    storages: list[tuple[StorageWeakRef, int]] = []
    places: dict[int, int] = {}
    moments: list[list[int]] = [[]]

    def pack(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        place = places.get(storage._cdata)
        # An address is used again when its storage is gone.
        if place is None or storages[place][0].expired():
            places[storage._cdata] = len(storages)
            moments.append([alive for alive in moments[-1] if not storages[alive][0].expired()] + [len(storages)])
            storages.append((StorageWeakRef(storage), storage.nbytes()))
        return values

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        run()
    sizes = [size if reference.expired() else 0 for reference, size in storages]
    return max(sum(sizes[place] for place in moment) for moment in moments)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that live at once within a pass, beyond what lived before.

    Counted by torch's allocator: the resident set of a process never falls below its high-water mark.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events: Any = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = most = 0
    for _, change in changes:
        live += change
        most = max(most, live)
    return most
