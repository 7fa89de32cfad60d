"""Memory: what is free, what a row of a pass takes, and which errors mean that there was too little."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..backbones import AbstractBackbone
from ..losses import task_losses
from ..prompts.batch import PromptBatch, TextBatch

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Limit and use of a control group, in version 2 and in version 1.
FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
SAID = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, or of Python, says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


def free_memory(device: torch.device) -> int:
    """Bytes that a process may still take on a device; of the machine, no more than its control groups leave it."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return min([psutil.virtual_memory().available, *left_in_groups()])


def left_in_groups(groups: Path = CGROUPS, own: Path = OWN) -> list[int]:
    """Bytes left in each control group of this process that has a limit; none where there are no groups.

    Args:
        groups: where the groups are.
        own: which of them this process is in.
    """
    if not own.is_file():
        return []
    found = []
    for line in own.read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory"):
            found += [left for folder in _upwards(groups / kinds, path) for left in _left(folder)]
    return found


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """A group and all that hold it. In a container the path may be the host's, and only the root is there."""
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
        # No such group, or no limit ("max").
        except (OSError, ValueError):
            continue
        # Files that were read and are kept make room when asked.
        kept = int(statistics.get("total_inactive_file", statistics.get("inactive_file", "0")))
        yield values[0] - values[1] + kept


def bytes_per_token(backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch) -> float:
    """Memory that a training pass takes for one more token of prompt or text, measured on the batch's first row.

    The difference between two copies of the row and one, so that what is there once does not count. On CUDA the
    allocator's peak over both directions; elsewhere what is kept for the backward pass. Attention grows with the
    square of a row's length: measured on the longest row it is enough for all.
    """
    rows = [torch.zeros(copies, dtype=torch.long, device=batch.ids.device) for copies in (1, 2)]
    held = _peak if backbone.device.type == "cuda" else _kept
    one, two = (held(backbone, prompt_batch, batch.select(chosen)) for chosen in rows)
    return (two - one) / (prompt_batch.vectors.shape[1] + batch.ids.shape[1])


def _kept(backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch) -> int:
    """Bytes kept for the backward pass, weights and prompts left out."""
    known = [*backbone.model.parameters(), *backbone.model.buffers(), prompt_batch.vectors]
    there = {place for values in known for place, _ in _blocks(values)}
    kept: dict[int, int] = {}

    def keep(values: Tensor) -> Tensor:
        kept.update({place: size for place, size in _blocks(values) if place not in there})
        return values

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        # Held until they are counted: what is freed has its place taken by the next.
        losses = _losses(backbone, prompt_batch, batch)
    total = sum(kept.values())
    del losses
    return total


def _blocks(values: Tensor) -> list[tuple[int, int]]:
    """Where a tensor's numbers lie, and in how many bytes; of a quantised one (torchao) where its parts do.

    Nothing for a kind of tensor that does not tell: what it keeps is not counted.
    """
    if (flatten := getattr(values, "__tensor_flatten__", None)) is not None:
        names, _ = flatten()
        return [block for name in names for block in _blocks(getattr(values, name))]
    try:
        storage = values.untyped_storage()
        return [(storage.data_ptr(), storage.nbytes())]
    except (RuntimeError, NotImplementedError):
        return []


def _peak(backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch) -> int:
    """Bytes that lived at once in both directions, beyond what lived before."""
    before = torch.cuda.memory_allocated(backbone.device)
    torch.cuda.reset_peak_memory_stats(backbone.device)
    leaves = [
        x
        for x in (prompt_batch.vectors, prompt_batch.deep, prompt_batch.head_weight)
        if x is not None and x.requires_grad
    ]
    with torch.enable_grad():
        torch.autograd.grad(_losses(backbone, prompt_batch, batch).sum(), leaves, allow_unused=True)
    return torch.cuda.max_memory_allocated(backbone.device) - before


def _losses(backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch) -> Tensor:
    assert batch.targets is not None
    return task_losses(backbone.logits(prompt_batch, batch), batch.targets)
