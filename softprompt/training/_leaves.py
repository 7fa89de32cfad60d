"""Batches of prompts that are cut from the graph: as leaves that accumulate gradients, or without gradients."""

import dataclasses
from collections.abc import Callable, Iterator

from torch import Tensor

from ..prompts.batch import PromptBatch


def leaves(prompt_batch: PromptBatch) -> PromptBatch:
    """Return the batch with detached tensors, which are leaves that accumulate gradients."""
    return changed(prompt_batch, lambda values: values.detach().requires_grad_(values.requires_grad))


def detached(prompt_batch: PromptBatch) -> PromptBatch:
    """Return the same batch of prompts without gradients."""
    return changed(prompt_batch, lambda values: values.detach())


def changed(prompt_batch: PromptBatch, change: Callable[[Tensor], Tensor]) -> PromptBatch:
    """Return the batch of prompts with `change` applied to every floating-point tensor."""
    return dataclasses.replace(prompt_batch, **{name: change(values) for name, values in numbers(prompt_batch)})


def numbers(prompt_batch: PromptBatch) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and value of each floating-point tensor of the batch, which are those that may have gradients."""
    for field in dataclasses.fields(prompt_batch):
        value = getattr(prompt_batch, field.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            yield field.name, value
