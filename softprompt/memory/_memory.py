"""Measurements of memory: how much is free, how much a row of a pass needs, and which errors mean a lack of it."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..backbones import AbstractBackbone
from ..losses import task_losses
from ..prompts.batch import PromptBatch, TextBatch

CGROUPS, PROCESS_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# The files with the limit and the use of a control group, in version 2 and in version 1.
FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may still allocate on a device. On a CPU its control groups limit them too."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return min([psutil.virtual_memory().available, *left_in_groups()])


def left_in_groups(groups: Path = CGROUPS, process_groups: Path = PROCESS_GROUPS) -> list[int]:
    """Return the bytes left in each control group of this process that has a limit; empty without control groups.

    Args:
        groups: the folder of the control groups.
        process_groups: the file that lists the groups of this process.
    """
    if not process_groups.is_file():
        return []
    bytes_left = []
    for line in process_groups.read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory"):
            bytes_left += [left for folder in _upwards(groups / kinds, path) for left in _left(folder)]
    return bytes_left


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and of all groups above it.

    In a container the path may be that of the host, and then only the root exists.
    """
    folder = root / path.lstrip("/")
    while folder != root:
        yield folder
        folder = folder.parent
    yield root


def _left(folder: Path) -> Iterator[int]:
    for limit, use in FILES:
        try:
            values = [int((folder / name).read_text()) for name in (limit, use)]
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # The group does not exist, or it has no limit ("max").
        except (OSError, ValueError):
            continue
        # The use counts cached files, which the kernel drops when memory is needed.
        cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", "0")))
        yield values[0] - values[1] + cached


def token_losses(backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch) -> Tensor:
    """Return the loss over tokens of each row, [b]."""
    assert batch.targets is not None
    return task_losses(backbone.logits(prompt_batch, batch), batch.targets)


Losses = Callable[[AbstractBackbone, PromptBatch, TextBatch], Tensor]


def bytes_per_token(
    backbone: AbstractBackbone,
    prompt_batch: PromptBatch,
    batch: TextBatch,
    losses: Losses = token_losses,
    behind: int = 0,
) -> float:
    """Measure the memory of a training pass for one more token of prompt, text or labels, on the batch's first row.

    It is the difference between two copies of the row and one, so that fixed costs cancel. On CUDA it is the peak of
    the allocator over forward and backward pass; elsewhere it is what the backward pass keeps. The memory of attention
    grows with the square of the length, so a measurement on the longest row is enough for all rows.

    Args:
        backbone: the frozen model.
        prompt_batch: the prompts, as leaves that require gradients.
        batch: its first row is measured.
        losses: computes the loss of each row.
        behind: positions of the labels, or of the answer, that it reads behind the row.
    """
    measure = _peak if backbone.device.type == "cuda" else _kept
    one_row, two_rows = (
        measure(backbone, prompt_batch, _copies(prompt_batch, batch, count, backbone.engine == "shared"), losses)
        for count in (1, 2)
    )
    return (two_rows - one_row) / (prompt_batch.vectors.shape[1] + batch.ids.shape[1] + behind)


def _copies(prompt_batch: PromptBatch, batch: TextBatch, count: int, is_shared: bool) -> TextBatch:
    """Return copies of the first row.

    Where an engine computes what rows share once, each gets a prompt of its own: a second copy would cost nothing.
    """
    rows = batch.select(torch.zeros(count, dtype=torch.long, device=batch.ids.device))
    if not is_shared:
        return rows
    shift = prompt_batch.vectors.new_zeros(count, *prompt_batch.vectors.shape[1:])
    return dataclasses.replace(rows, prompt_delta=shift)


def _kept(
    backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch, losses: Losses = token_losses
) -> int:
    """Count the bytes that are kept for the backward pass, without weights and prompts."""
    permanent = [*backbone.model.parameters(), *backbone.model.buffers(), prompt_batch.vectors]
    permanent_blocks = {address for values in permanent for address, _ in _blocks(values)}
    kept: dict[int, int] = {}

    def keep(values: Tensor) -> Tensor:
        kept.update({address: size for address, size in _blocks(values) if address not in permanent_blocks})
        return values

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        # The losses hold the graph until the sum is taken: a freed block could be reused and counted as one.
        values = losses(backbone, prompt_batch, batch)
    total = sum(kept.values())
    del values
    return total


def _blocks(values: Tensor) -> list[tuple[int, int]]:
    """Return the address and the size in bytes of a tensor's storage, or of the parts of a quantised tensor (torchao).

    The result is empty for a kind of tensor that does not reveal its storage, which is then not counted.
    """
    if (flatten := getattr(values, "__tensor_flatten__", None)) is not None:
        names, _ = flatten()
        return [block for name in names for block in _blocks(getattr(values, name))]
    try:
        storage = values.untyped_storage()
        return [(storage.data_ptr(), storage.nbytes())]
    except (RuntimeError, NotImplementedError):
        return []


def _peak(backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch, losses: Losses) -> int:
    """Return the peak of allocated bytes over forward and backward pass, above the bytes allocated before."""
    before = torch.cuda.memory_allocated(backbone.device)
    torch.cuda.reset_peak_memory_stats(backbone.device)
    leaves = [
        x
        for x in (prompt_batch.vectors, prompt_batch.deep, prompt_batch.head_weight)
        if x is not None and x.requires_grad
    ]
    with torch.enable_grad():
        torch.autograd.grad(losses(backbone, prompt_batch, batch).sum(), leaves, allow_unused=True)
    return torch.cuda.max_memory_allocated(backbone.device) - before
