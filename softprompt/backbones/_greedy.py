"""Greedy answers, whatever a checkpoint's own generation defaults are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Stands in an answer in the place of a token where the model computes NaN, whose likeliest token would be the first.
NOTHING = -1

# Sees the next token of each row as soon as it is there, a pad after a row's end, and says which rows stop here.
# A row in which the model computes NaN has NOTHING for a token, and stops whatever is said.
Watch = Callable[[Int[Tensor, " b"]], Bool[Tensor, " b"]]


@final
class Course:
    """Follows the answers of a batch token by token: which of them go on, and in which the model computes NaN.

    Args:
        rows: which of them are answered.
        ends: tokens that end an answer.
        watch: of the caller; None is nobody.
    """

    def __init__(self, rows: Bool[Tensor, " b"], ends: Sequence[int], watch: Watch | None):
        self.ends, self.watch = torch.tensor(list(ends), device=rows.device), watch
        self.going, self.lost = rows, torch.zeros_like(rows)

    def see(self, logits: Float[Tensor, "b v"]) -> None:
        """See what the next token is chosen by."""
        self.lost = self.lost | (self.going & logits.amax(-1).isnan())

    def stopped(self, tokens: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """See the next token of each row; return which rows have stopped."""
        self.going = self.going & ~self.lost & ~torch.isin(tokens, self.ends)
        if self.watch is not None:
            self.going = self.going & ~self.watch(tokens.masked_fill(self.lost, NOTHING))
        return ~self.going

    def answers(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """The answers, of NOTHING in the rows in which the model computes NaN."""
        return ids.masked_fill(self.lost[:, None], NOTHING)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `model.generate` that let this follow."""
        from transformers import LogitsProcessorList, StoppingCriteriaList

        def seen(ids: Tensor, scores: Tensor) -> Tensor:
            self.see(scores)
            return scores

        return {
            "logits_processor": LogitsProcessorList([seen]),
            "stopping_criteria": StoppingCriteriaList([lambda ids, scores, **_: self.stopped(ids[:, -1])]),
        }


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
