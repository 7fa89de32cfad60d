"""Label scores of rows that have labels of their own, in one pass."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones import AbstractBackbone, Reading, label_logits_each
from ..prompts.batch import PromptBatch, TextBatch


def scored_each(
    backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch, readings: Sequence[Reading]
) -> list[Float[Tensor, " c"]]:
    """The scores of each row's labels, on the CPU.

    Args:
        backbone: frozen.
        prompt_batch: the prompts.
        batch: rows; targets are not read.
        readings: the labels of each row.

    Raises:
        BadInput: as in `AbstractBackbone.label_scores`.
    """
    different = list(dict.fromkeys(readings))
    which = [different.index(reading) for reading in readings]
    scores = label_logits_each(backbone, prompt_batch, batch, different, torch.tensor(which, device=batch.ids.device))
    rows = [iter(of_reading.float().cpu()) for of_reading in scores]
    return [next(rows[number]) for number in which]
