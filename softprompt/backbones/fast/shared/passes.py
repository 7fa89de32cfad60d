"""The passes of a decoder with shared prefixes: logits at the asked positions, scores of labels, states of the text."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....prompts.batch import PromptBatch, TextBatch
from ....prompts.compiled import CompiledPrefix
from ..._labels import Reading, rows_of
from ...prefix import read_cache
from .compiled import at_places, held_cache, places_of, rows_of_tokens
from .layout import Layout, lay_out
from .runner import ModelParts, Runner
from .tree import AnswerTree, Behind, tree_of

IGNORED = -100
# Numbers of the logits of one pass that scores labels: with many labels they are the largest thing in memory by far.
LOGITS = {"cpu": 1 << 26, "cuda": 1 << 29}


@final
class SharedPasses:
    """The passes of one decoder.

    Args:
        parts: of a causal model.
    """

    def __init__(self, parts: ModelParts):
        self.runner = Runner(parts, _options)

    def logits(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b l v"]:
        """Return the logits at the label positions, and zeros at padded ones."""
        assert batch.targets is not None
        targets = batch.targets.long()
        needed = targets != IGNORED
        # A token is read only if a label follows it.
        read = targets[:, :-1].masked_fill(~needed[:, 1:], IGNORED)
        layout = self._layout(prompt_batch, batch, Behind.chains(read))
        flat = self.runner.logits(prompt_batch, batch, layout)
        b, length = targets.shape
        if len(flat) == b * length:
            return flat.view(b, length, -1)
        rows, columns = needed.nonzero(as_tuple=True)
        empty = flat.new_zeros(b, length, flat.shape[1])
        return empty.index_put((rows, columns), flat[layout.firsts[rows] + columns])

    def label_scores(
        self, prompt_batch: PromptBatch, batch: TextBatch, labels: Sequence[Sequence[int]], normalize: str
    ) -> Float[Tensor, "b c"]:
        """Return the log-probability of each label; all labels are read after the same text."""
        reading = Reading.of(labels, normalize)
        return self.label_scores_each(prompt_batch, batch, [reading], torch.zeros_like(batch.owner))[0]

    def label_scores_each(
        self, prompt_batch: PromptBatch, batch: TextBatch, readings: Sequence[Reading], which: Int[Tensor, " b"]
    ) -> list[Float[Tensor, "r c"]]:
        """Return for each reading the log-probabilities of its labels for its rows.

        One pass reads all of them. Without gradients more logits than `LOGITS` are computed in several.
        """
        trees = [read_behind(reading) for reading in readings]
        most = self._rows_of_logits(1 + max(len(tree.tokens) for tree in trees), batch.ids.device.type)
        if torch.is_grad_enabled() or len(which) <= most:
            return self._scores_each(prompt_batch, batch, readings, trees, which)
        parts = [
            self._scores_each(prompt_batch, batch.select(rows), readings, trees, which[rows])
            for rows in torch.arange(len(which), device=which.device).split(most)
        ]
        return [torch.cat(of_reading) for of_reading in zip(*parts, strict=True)]

    def _rows_of_logits(self, queries: int, device: str) -> int:
        """Return how many rows with so many queries a pass may have."""
        vocabulary = self.runner.base.config.get_text_config().vocab_size
        return max(1, LOGITS.get(device, LOGITS["cuda"]) // (queries * vocabulary))

    def _scores_each(
        self,
        prompt_batch: PromptBatch,
        batch: TextBatch,
        readings: Sequence[Reading],
        trees: Sequence[AnswerTree],
        which: Int[Tensor, " b"],
    ) -> list[Float[Tensor, "r c"]]:
        layout = self._layout(prompt_batch, batch, Behind.trees(trees, which))
        flat = self.runner.logits(prompt_batch, batch, layout)
        wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
        totals = wide.logsumexp(-1)
        return [
            self._scores(reading, tree, wide, totals, layout.firsts[rows])
            for reading, tree, rows in zip(readings, trees, rows_of(which, len(readings)), strict=True)
        ]

    @staticmethod
    def _scores(
        reading: Reading,
        tree: AnswerTree,
        logits: Float[Tensor, "q v"],
        totals: Float[Tensor, " q"],
        firsts: Int[Tensor, " r"],
    ) -> Float[Tensor, "r c"]:
        """Return the label scores of rows whose first queries these are."""
        scores = []
        for label, path in zip(reading.scored, tree.paths, strict=True):
            places = firsts[:, None] + torch.tensor([0, *path], device=firsts.device)
            tokens = torch.tensor(label, device=firsts.device)
            scores.append(reading.combined(logits[places, tokens] - totals[places]))
        return torch.stack(scores, 1)

    def text_states(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b t d"]:
        """Return the last states over the text; of padding, those of another column."""
        # States of compiled positions are not known.
        prompt_batch = dataclasses.replace(prompt_batch, compiled=None)
        layout = self._layout(prompt_batch, batch, Behind.nothing(len(batch.ids)))
        states = self.runner.states(prompt_batch, batch, layout)
        return states[layout.states]

    @torch.no_grad()
    def compiled(self, prompt_batch: PromptBatch, openings: Sequence[Sequence[int]]) -> list[CompiledPrefix]:
        """Return each prompt's keys and values, with those of the tokens after it; one pass computes all of them."""
        from transformers import DynamicCache

        batch = rows_of_tokens(openings, prompt_batch.mask.device)
        prompt_batch = dataclasses.replace(prompt_batch, compiled=None)
        layout = self._layout(prompt_batch, batch, Behind.nothing(len(batch.ids)))
        # Without a configuration it keeps every position of layers with a sliding window, too.
        cache = DynamicCache()
        self.runner.states(prompt_batch, batch, layout, past_key_values=cache)
        layers, prompts, texts = read_cache(cache, self.runner.name), layout.prompts, layout.texts
        return [
            CompiledPrefix(at_places(layers, places_of(row, prompts, texts)), tuple(opening))
            for row, opening in enumerate(openings)
        ]

    def _layout(self, prompt_batch: PromptBatch, batch: TextBatch, answers: Behind) -> Layout:
        return lay_out(prompt_batch, batch, answers, device=batch.ids.device)


def read_behind(reading: Reading) -> AnswerTree:
    """Return what is read after a text to score labels: each without its last token, common beginnings once."""
    return tree_of(tuple(label[:-1] for label in reading.scored))


def _options(prompt_batch: PromptBatch, layout: Layout, x: Tensor) -> dict[str, Any]:
    return {
        "attention_mask": layout.tokens.new_ones(1, sum(layout.held) + len(layout.tokens)),
        "position_ids": layout.positions[None],
        "use_cache": False,
        **held_cache(prompt_batch.compiled or (), layout.held, x),
    }


def counts_positions(base: Any) -> bool:
    """Whether the layers of a decoder are told the position of each token."""
    return "position_ids" in inspect.signature(base.forward).parameters
