"""Free-text answers to rows that are read in windows: the answer that the model holds most likely, over all windows."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ..backbones import AbstractBackbone
from ..data import Examples
from ..losses import IGNORED, cross_entropy
from ..prompts.batch import PromptBatch
from ..tasks import Task
from .decoding import before_answer


def answer_scores(
    backbone: AbstractBackbone,
    prompt_batch: PromptBatch,
    examples: Examples,
    rows: Sequence[int],
    owner: Int[Tensor, " b"],
    texts: Sequence[str],
    task: Task,
) -> list[float]:
    """The log-probability in nats of each row's answer, end of sequence included.

    Args:
        backbone: frozen; it answers in tokens.
        prompt_batch: the prompts.
        examples: the rows.
        rows: which of them.
        owner: for each row its prompt.
        texts: for each row its answer.
        task: how they are put, which says what stands right before an answer.
    """
    answers = backbone.encode_answers(texts, before_answer(backbone, task))
    width = max(map(len, answers))
    targets = torch.tensor([[*ids, *[IGNORED] * (width - len(ids))] for ids in answers])
    batch = examples.batch(rows, owner, backbone.pad_id)
    batch = dataclasses.replace(batch, targets=targets).to(backbone.device)
    assert batch.targets is not None
    losses = cross_entropy(backbone.logits(prompt_batch, batch), batch.targets.long())
    return (-losses.cpu() * torch.tensor([len(ids) for ids in answers])).tolist()


def best(scores: Sequence[float], owner: Sequence[int]) -> list[int]:
    """For each row the place of its window with the highest score, the first on a tie."""
    chosen: dict[int, int] = {}
    for place, row in enumerate(owner):
        if row not in chosen or scores[place] > scores[chosen[row]]:
            chosen[row] = place
    return [chosen[row] for row in sorted(chosen)]
