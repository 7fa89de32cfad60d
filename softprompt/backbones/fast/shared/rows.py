"""The passes of an encoder without padding: logits at one position of each row, and states of the text."""

import inspect
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ....prompts.batch import PromptBatch, TextBatch
from ...family import first_position
from .layout import Layout, lay_out_whole
from .runner import ModelParts, Runner


@final
class RowPasses:
    """The passes of one encoder. A prompt sees the text behind it, so each row has a copy of its prompt.

    Args:
        parts: of a bidirectional model.
    """

    def __init__(self, parts: ModelParts):
        self.runner = Runner(parts, self._options)
        self._first_position = first_position(parts.model)
        self._has_types = "token_type_ids" in inspect.signature(parts.base.forward).parameters

    def logits_at(
        self, prompt_batch: PromptBatch, batch: TextBatch, columns: Int[Tensor, " b"]
    ) -> Float[Tensor, "b 1 v"]:
        """Return the logits at one column of each row's text.

        Args:
            prompt_batch: the prompts.
            batch: rows that are padded on the right.
            columns: the column of each row.
        """
        asked = torch.arange(batch.ids.shape[1], device=columns.device) == columns[:, None]
        layout = self._layout(prompt_batch, batch, asked)
        return self.runner.logits(prompt_batch, batch, layout)[:, None]

    def text_states(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b t d"]:
        """Return the last states over the text, and zeros at padding; the rows are padded on the right."""
        layout = self._layout(prompt_batch, batch, batch.mask)
        states = self.runner.asked_states(prompt_batch, batch, layout)
        _, rows, columns = layout.texts
        return states.new_zeros(*batch.ids.shape, states.shape[1]).index_put((rows, columns), states)

    def _layout(self, prompt_batch: PromptBatch, batch: TextBatch, asked: Bool[Tensor, "b t"]) -> Layout:
        return lay_out_whole(prompt_batch, batch, asked, device=batch.ids.device)

    def _options(self, prompt_batch: PromptBatch, layout: Layout, x: Tensor) -> dict[str, Any]:
        options = {"position_ids": layout.positions[None] + self._first_position}
        # A table of as many zeros as there are positions in a row would be too short for all rows.
        return options | ({"token_type_ids": torch.zeros_like(layout.tokens)[None]} if self._has_types else {})
