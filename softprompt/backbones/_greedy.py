"""Greedy answers, whatever a checkpoint's own generation defaults are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

# Sees the next token of each row as soon as it is there, a pad behind a row's end, and says which rows stop here.
Watch = Callable[[Int[Tensor, " b"]], Bool[Tensor, " b"]]


def stopping(watch: Watch | None) -> dict[str, Any]:
    """The argument of `model.generate` that shows a watcher each token; nothing where nobody watches."""
    if watch is None:
        return {}
    from transformers import StoppingCriteriaList

    return {"stopping_criteria": StoppingCriteriaList([lambda ids, scores, **_: watch(ids[:, -1])])}


@contextmanager
def greedy(
    model: Any, *, ends: Sequence[int], pad: int, max_new_tokens: int, at_least: int, **more: int
) -> Iterator[None]:
    """Within, `model.generate` takes the likeliest token each time."""
    from transformers import GenerationConfig

    kept = model.generation_config
    # Swapped, not passed: what a passed configuration leaves open is filled from the model's (beams, penalties).
    model.generation_config = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, min_new_tokens=at_least or None,
        eos_token_id=list(ends), pad_token_id=pad, **more,
    )  # fmt: skip
    try:
        yield
    finally:
        model.generation_config = kept
