"""Label scores up to a number of each row: of labels of one token, only their logits where the head allows it."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.seeds import GENERATORS
from ._labels import Reading, refuse_collisions
from ._precision import is_wide, restore_forward, wide_product
from ._turns import turn
from .base import AbstractBackbone


def label_logits(
    backbone: AbstractBackbone,
    prompt_batch: PromptBatch,
    batch: TextBatch,
    labels: Sequence[Sequence[int]],
    *,
    normalize: str = "sum",
) -> Float[Tensor, "b c"]:
    """Label scores up to a number of each row, which is enough to choose a label, and to learn to choose it.

    Where one token of every label counts, these are logits of the label words: the sum over the vocabulary is the same
    for all labels of a row. A plain head then computes no others.

    Args:
        backbone: the frozen model.
        prompt_batch: the prompts.
        batch: rows; targets are not read.
        labels: as in `AbstractBackbone.label_scores`.
        normalize: as in `AbstractBackbone.label_scores`.
    """
    if normalize == "first":
        refuse_collisions(labels, backbone.tokenizer)
        labels = [label[:1] for label in labels]
    if max(map(len, labels)) > 1:
        return backbone.label_scores(prompt_batch, batch, labels, normalize=normalize)
    tokens = torch.tensor([label[0] for label in labels], device=batch.ids.device)
    shortened = dataclasses.replace(batch, targets=tokens[:1].expand(len(batch.ids), 1))
    if not _heads_agree(backbone, prompt_batch, shortened, tokens):
        return backbone.logits(prompt_batch, shortened)[:, 0, tokens]
    with head_over(backbone.model.get_output_embeddings(), tokens):
        return backbone.logits(prompt_batch, shortened)[:, 0]


def label_logits_each(
    backbone: AbstractBackbone,
    prompt_batch: PromptBatch,
    batch: TextBatch,
    readings: Sequence[Reading],
    which: Int[Tensor, " b"],
) -> list[Float[Tensor, "r c"]]:
    """What `AbstractBackbone.label_scores_each` gives, up to a number of each row; the probabilities are the same.

    Args:
        backbone: the frozen model.
        prompt_batch: the prompts.
        batch: rows; targets are not read.
        readings: the labels of each task.
        which: for each row its reading.

    Raises:
        BadInput: as in `AbstractBackbone.label_scores`.
    """
    for reading in readings:
        if reading.normalize == "first":
            refuse_collisions(reading.labels, backbone.tokenizer)
    words = sorted({label[0] for reading in readings for label in reading.scored})
    tokens = torch.tensor(words, device=batch.ids.device)
    asked = dataclasses.replace(batch, targets=tokens[:1].expand(len(batch.ids), 1))
    is_one_token = all(len(label) == 1 for reading in readings for label in reading.scored)
    if not is_one_token or not _heads_agree(backbone, prompt_batch, asked, tokens):
        return backbone.label_scores_each(prompt_batch, batch, readings, which)
    places = {word: place for place, word in enumerate(words)}
    among = [Reading.of([[places[label[0]]] for label in reading.scored]) for reading in readings]
    with head_over(backbone.model.get_output_embeddings(), tokens):
        return backbone.label_scores_each(prompt_batch, batch, among, which)


def _heads_agree(
    backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch, tokens: Int[Tensor, " c"]
) -> bool:
    """Whether the model gives right logits from a head over a few tokens; tried once, on the first row.

    A model may add a bias of the vocabulary's size after its head (BART), which then fits nothing.
    """
    if backbone.copies_weights or not is_plain_head(backbone.model.get_output_embeddings()):
        return False
    if backbone.heads_agree is None:
        row = batch.select(torch.zeros(1, dtype=torch.long, device=batch.ids.device))
        # The trial may not change what the frozen model's dropout draws next.
        with turn(backbone.model), GENERATORS, torch.no_grad(), torch.random.fork_rng():
            whole = backbone.logits(prompt_batch, row)[:, 0, tokens]
            some = _logits_over(backbone, prompt_batch, row, tokens)
        backbone.heads_agree = some is not None and agree(some, whole)
    return backbone.heads_agree


def _logits_over(
    backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch, tokens: Int[Tensor, " c"]
) -> Tensor | None:
    """The logits from a head over a few tokens; None where what follows the head cannot take them."""
    try:
        with turn(backbone.model), head_over(backbone.model.get_output_embeddings(), tokens):
            return backbone.logits(prompt_batch, batch)[:, 0]
    except (RuntimeError, IndexError, ValueError):
        return None


def is_plain_head(head: Any) -> bool:
    """Whether a head is one linear layer and nothing else: no adapter, no hooks, no forward but that of bfloat16."""
    fields = getattr(head, "__dict__", {})
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        type(head) is nn.Linear
        and ("forward" not in fields or is_wide(head))
        and not any(fields[name] for name in hooks)
    )


@contextlib.contextmanager
def head_over(head: nn.Linear, tokens: Int[Tensor, " c"]) -> Iterator[None]:
    """Within the block, the head gives the logits of these tokens only, in their order."""
    weight, bias = head.weight[tokens], None if head.bias is None else head.bias[tokens]
    before, product = head.__dict__.get("forward"), wide_product if is_wide(head) else functional.linear

    def forward(states: Tensor) -> Tensor:
        return product(states, weight, bias)

    head.__dict__["forward"] = forward
    try:
        yield
    finally:
        restore_forward(head, before)


def agree(some: Tensor, whole: Tensor) -> bool:
    """Whether logits of a few tokens give the same probabilities of these tokens as logits of the whole vocabulary."""
    if some.shape != whole.shape:
        return False
    some, whole = (x.float().log_softmax(-1) for x in (some, whole))
    return bool(torch.allclose(some, whole, rtol=1e-2, atol=1e-2))
