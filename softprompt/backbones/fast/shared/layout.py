"""Where the positions of a batch lie in one sequence without padding, and which of them are computed in one call.

All indices are computed by numpy on the host, which waits for the device once, and then copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ....prompts.batch import PromptBatch, TextBatch
from .groups import Group, Spans, grouped
from .tree import ALL, Behind


@final
@dataclass(frozen=True, kw_only=True)
class Layout:
    """One sequence of r positions: p prefixes, then b rows, and the q positions whose logits are asked for.

    A prefix is a prompt and the tokens with which all its rows begin. A row is what is left of its text, and the tree
    of its answers, which goes on from the text. Where rows have copies of their prompt, nothing is before them.

    Args:
        tokens: token id of each position; 0 where a vector of a prompt stands.
        positions: position id of each position, as in a row of its own.
        prompts: places of prompt vectors, and for each the row of the batch of prompts (or the row of text, where rows
            have perturbed copies) and the column from which it comes.
        texts: places of text tokens after the prefixes, and for each the row and the column of the batch.
        queries: places of the asked positions: for each row the end of its text, then all tokens of its answers; or
            the columns of text that were asked for.
        firsts: number of each row's first query.
        whole: the calls of the attention over all positions.
        asked: its calls over the queries alone.
        states: for each column of text its place; for padding, a place of the same row.
        held: of each prompt the compiled positions that the rows read; their keys stand before those of the sequence.
        has_copies: whether each row begins with a copy of its prompt.
    """

    tokens: Int[Tensor, " r"]
    positions: Int[Tensor, " r"]
    prompts: tuple[Tensor, Tensor, Tensor]
    texts: tuple[Tensor, Tensor, Tensor]
    queries: Int[Tensor, " q"]
    firsts: Int[Tensor, " b"]
    whole: tuple[Group, ...]
    asked: tuple[Group, ...]
    states: Int[Tensor, "b t"]
    held: tuple[int, ...]
    has_copies: bool


def lay_out(prompt_batch: PromptBatch, batch: TextBatch, answers: Behind, *, device: torch.device) -> Layout:
    """Lay out the rows of a batch whose texts are padded on the right.

    Args:
        prompt_batch: the prompts.
        batch: the rows. Rows with a shifted prompt get a copy of it each.
        answers: what each row reads after its text.
        device: where the indices are needed.
    """
    return _Host(prompt_batch, batch, answers, has_copies=batch.prompt_delta is not None).layout(device)


def lay_out_whole(
    prompt_batch: PromptBatch, batch: TextBatch, asked: Bool[Tensor, "b t"], *, device: torch.device
) -> Layout:
    """Lay out the rows of a batch, each after a copy of its prompt, for layers in which a prompt sees its text.

    Args:
        prompt_batch: the prompts.
        batch: the rows, whose texts are padded on the right.
        asked: the positions of text that are asked for.
        device: where the indices are needed.
    """
    host = _Host(prompt_batch, batch, Behind.nothing(len(batch.ids)), has_copies=True)
    return host.layout(device, asked.cpu().numpy())


def ragged(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each element of rows of these lengths its row and its number within the row."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return rows, np.arange(len(rows)) - np.repeat(starts_of(lengths), lengths)


def starts_of(lengths: np.ndarray, first: int = 0) -> np.ndarray:
    """Return where rows of these lengths begin when they lie one after another."""
    return first + np.cumsum(lengths) - lengths


def common_tokens(ids: np.ndarray, lengths: np.ndarray, owner: np.ndarray, p: int) -> np.ndarray:
    """Return for each prompt the number of tokens with which all its rows begin; one token is left to each row."""
    counts = np.zeros(p, dtype=np.int64)
    for prompt in range(p):
        rows = np.flatnonzero(owner == prompt)
        if len(rows) < 2:
            continue
        most = max(int(lengths[rows].min()) - 1, 0)
        differs = (ids[rows, :most] != ids[rows[0], :most]).any(0)
        counts[prompt] = differs.argmax() if differs.any() else most
    return counts


def held_tokens(
    openings: Sequence[Sequence[int] | None], ids: np.ndarray, lengths: np.ndarray, owner: np.ndarray
) -> np.ndarray:
    """Return for each prompt with how many tokens of its compiled opening all its rows begin; -1 if it is not read.

    One token is left to each row. A row without tokens asks at the last position of its prompt, which then has to be
    computed.
    """
    counts = np.full(len(openings), -1, dtype=np.int64)
    for prompt, opening in enumerate(openings):
        rows = np.flatnonzero(owner == prompt)
        if opening is None or not len(rows) or not (shortest := int(lengths[rows].min())):
            continue
        most = min(shortest - 1, len(opening))
        differs = (ids[rows, :most] != np.asarray(opening[:most], dtype=np.int64)).any(0)
        counts[prompt] = differs.argmax() if differs.any() else most
    return counts


class _Host:
    """The arithmetic of a layout, on the host."""

    def __init__(self, prompt_batch: PromptBatch, batch: TextBatch, answers: Behind, *, has_copies: bool):
        self.has_copies = has_copies
        self.owner, self.ids = batch.owner.cpu().numpy(), batch.ids.cpu().numpy()
        self.prompt_mask = prompt_batch.mask.cpu().numpy()
        self.prompt_lengths = self.prompt_mask.sum(1)
        self.text_lengths = batch.mask.cpu().numpy().sum(1)
        self.answers = answers
        p = len(self.prompt_mask)
        is_shared = not has_copies and batch.text_delta is None
        self.common = common_tokens(self.ids, self.text_lengths, self.owner, p) if is_shared else np.zeros(p, int)
        # A gradient of a prompt goes through its computation.
        is_known = is_shared and not torch.is_grad_enabled()
        compiled = prompt_batch.compiled if is_known and prompt_batch.compiled else (None,) * p
        openings = [None if prefix is None else prefix.opening for prefix in compiled]
        tokens = held_tokens(openings, self.ids, self.text_lengths, self.owner)
        rows = np.bincount(self.owner, minlength=p)
        # Where its rows have much more in common than the opening, to compute that once is cheaper than to read.
        is_held = (tokens >= 0) & (rows * (self.common - tokens) <= self.prompt_lengths + self.common)
        self.common = np.where(is_held, tokens, self.common)
        self.held = np.where(is_held, self.prompt_lengths + tokens, 0)
        self.placed = self.common * ~is_held
        used = np.isin(np.arange(p), self.owner) & (not has_copies) & ~is_held
        self.prefix_prompts = self.prompt_lengths * used
        self.prefix_lengths = self.prefix_prompts + self.placed
        self.row_prompts = self.prompt_lengths[self.owner] * has_copies
        self.row_texts = self.text_lengths - self.common[self.owner]
        self.row_answers = (answers.tokens >= 0).sum(1)
        self.row_lengths = self.row_prompts + self.row_texts + self.row_answers
        self.prefix_starts = starts_of(self.prefix_lengths)
        self.row_starts = starts_of(self.row_lengths, int(self.prefix_lengths.sum()))
        size = int(self.prefix_lengths.sum() + self.row_lengths.sum())
        self.tokens, self.positions, self.numbers = (np.zeros(size, dtype=np.int64) for _ in range(3))
        self.lasts = np.full(size, ALL)

    def layout(self, device: torch.device, asked: np.ndarray | None = None) -> Layout:
        """Return the layout, with its indices on the device; where no columns are asked for, answers are."""
        prompts, texts = self._prompts(), self._texts()
        self._answers()
        queries, firsts, counts = self._queries() if asked is None else self._columns(asked)
        rows = Spans(self.row_starts, self.row_lengths)
        prefixes = Spans(self.prefix_starts, self.prefix_lengths)
        marks = self.positions, self.numbers
        # The keys of the sequence stand after those that are held.
        before = int(self.held.sum())
        held_positions = ragged(self.held)[1]
        key_marks = (
            np.append(held_positions, self.positions),
            np.append(0 * held_positions, self.numbers),
            np.append(np.full(before, ALL), self.lasts),
        )
        row_keys = Spans(self.row_starts + before, self.row_lengths)
        prefix_keys = Spans(self.prefix_starts + before, self.prefix_lengths)
        is_held = self.held > 0
        seen = Spans(
            np.where(is_held, starts_of(self.held), prefix_keys.starts),
            np.where(is_held, self.held, prefix_keys.lengths),
        )
        on = device.type
        alone = grouped(prefixes, prefix_keys, None, None, marks, key_marks, on)
        whole = grouped(rows, row_keys, seen, self.owner, marks, key_marks, on)
        its = self.positions[queries], self.numbers[queries]
        late = grouped(Spans(firsts, counts), row_keys, seen, self.owner, its, key_marks, on)

        def moved(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device)

        def three(values: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
            return moved(values[0]), moved(values[1]), moved(values[2])

        return Layout(
            tokens=moved(self.tokens),
            positions=moved(self.positions),
            prompts=three(prompts),
            texts=three(texts),
            queries=moved(queries),
            firsts=moved(firsts),
            whole=tuple(group.to(device) for group in (*alone, *whole)),
            asked=tuple(group.to(device) for group in late),
            states=moved(self._states()),
            held=tuple(self.held.tolist()),
            has_copies=self.has_copies,
        )

    def _prompts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Place the vectors of prompts, once a prompt or once a row."""
        lengths, starts = (
            (self.row_prompts, self.row_starts) if self.has_copies else (self.prefix_prompts, self.prefix_starts)
        )
        rows, within = ragged(lengths)
        prompt = self.owner[rows] if self.has_copies else rows
        # The columns of a prompt, those of padding last.
        columns = np.argsort(~self.prompt_mask, axis=1, kind="stable")[prompt, within]
        places = starts[rows] + within
        self.positions[places] = within
        return places, rows, columns

    def _texts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Place the tokens of texts: common ones in the prefixes, the others in the rows."""
        prompts, within = ragged(self.placed)
        places = self.prefix_starts[prompts] + self.prefix_prompts[prompts] + within
        # The first row of each prompt has the tokens of them all.
        first = np.array([np.argmax(self.owner == prompt) for prompt in range(len(self.placed))], dtype=np.int64)
        self.tokens[places] = self.ids[first[prompts], within]
        self.positions[places] = self.prompt_lengths[prompts] + within
        rows, within = ragged(self.row_texts)
        columns = self.common[self.owner[rows]] + within
        places = self.row_starts[rows] + self.row_prompts[rows] + within
        self.tokens[places] = self.ids[rows, columns]
        self.positions[places] = self.prompt_lengths[self.owner[rows]] + columns
        return places, rows, columns

    def _answers(self) -> None:
        """Place the tokens of answers."""
        rows, within = ragged(self.row_answers)
        places = (self.row_starts + self.row_prompts + self.row_texts)[rows] + within
        self.tokens[places] = self.answers.tokens[rows, within]
        self.positions[places] = (self.prompt_lengths[self.owner] + self.text_lengths)[rows]
        self.positions[places] += self.answers.depths[rows, within]
        self.numbers[places] = within + 1
        self.lasts[places] = self.answers.lasts[rows, within]

    def _queries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the places of the queries, the number of each row's first one, and how many a row has."""
        counts = 1 + self.row_answers
        rows, within = ragged(counts)
        body = self.row_prompts + self.row_texts
        prefix_ends = (self.prefix_starts + self.prefix_lengths)[self.owner] - 1
        ends = np.where(body > 0, self.row_starts + body - 1, prefix_ends)
        places = np.where(within == 0, ends[rows], (self.row_starts + body)[rows] + within - 1)
        return places, starts_of(counts), counts

    def _columns(self, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what `_queries` does for columns of text that are asked for."""
        rows, columns = asked.nonzero()
        counts = asked.sum(1)
        return (self.row_starts + self.row_prompts)[rows] + columns, starts_of(counts), counts

    def _states(self) -> np.ndarray:
        """Return the place of each column of text; of padding, a place of the same row."""
        common, columns = self.common[self.owner][:, None], np.arange(self.ids.shape[1])[None]
        in_prefix = (self.prefix_starts + self.prefix_prompts)[self.owner][:, None] + columns
        last = np.maximum(self.row_texts[:, None] - 1, 0)
        in_row = (self.row_starts + self.row_prompts)[:, None] + np.minimum(columns - common, last)
        return np.minimum(np.where(columns < common, in_prefix, in_row), max(len(self.tokens) - 1, 0))
