"""The passes of an encoder without padding: logits at one position of each row, and states of prompt and text."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ....prompts.batch import PromptBatch, TextBatch
from ...family import first_position
from .layout import Layout, lay_out_whole
from .passes import counts_positions
from .runner import ModelParts, Runner
from .switch import current_layout


@final
class RowPasses:
    """The passes of one encoder. A prompt sees the text after it, so each row has a copy of its prompt.

    Args:
        parts: of a bidirectional model, or of an encoder-decoder, whose layers are then those of the encoder.
    """

    def __init__(self, parts: ModelParts):
        self.runner = Runner(parts, self._options)
        self._first_position = first_position(parts.base)
        self._table = None if counts_positions(parts.base) else position_table(parts.base)
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

    def states(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b s d"]:
        """Return the last states over `[prompt | text]`, and zeros at padding; the texts are padded on the right."""
        layout = self._layout(prompt_batch, batch, torch.zeros_like(batch.mask))
        with _read_at(self._table, layout):
            states = self.runner.states(prompt_batch, batch, layout)
        n, (b, t) = prompt_batch.mask.shape[1], batch.mask.shape
        prompts, texts = layout.prompts, layout.texts
        places, rows = (torch.cat([prompts[i], texts[i]]) for i in (0, 1))
        columns = torch.cat([prompts[2], n + texts[2]])
        return states.new_zeros(b, n + t, states.shape[1]).index_put((rows, columns), states[places])

    def _layout(self, prompt_batch: PromptBatch, batch: TextBatch, asked: Bool[Tensor, "b t"]) -> Layout:
        return lay_out_whole(prompt_batch, batch, asked, device=batch.ids.device)

    def _options(self, prompt_batch: PromptBatch, layout: Layout, x: Tensor) -> dict[str, Any]:
        if self._table is not None:
            return {}
        options = {"position_ids": layout.positions[None] + self._first_position}
        # A table of as many zeros as there are positions in a row would be too short for all rows.
        return options | ({"token_type_ids": torch.zeros_like(layout.tokens)[None]} if self._has_types else {})


def position_table(base: nn.Module) -> nn.Module | None:
    """Return the table of positions of BART's relatives, which counts columns unless it is told the positions."""
    table = getattr(base, "embed_positions", None)
    is_told = table is not None and "position_ids" in inspect.signature(table.forward).parameters
    return table if is_told else None


@contextmanager
def _read_at(table: nn.Module | None, layout: Layout) -> Iterator[None]:
    """Within the `with` block, a pass over this layout reads the table at the positions of the layout."""

    def tell(module: nn.Module, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        # A pass of the user's in another thread counts columns.
        is_ours = current_layout() is layout
        return arguments, {**options, "position_ids": layout.positions} if is_ours else options

    if table is None:
        yield
        return
    with table.register_forward_pre_hook(tell, with_kwargs=True):
        yield
