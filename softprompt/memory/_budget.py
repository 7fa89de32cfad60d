"""The memory budget of a pass, and how rows that exceed it are split into several passes."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, final

import torch

from ..backbones import AbstractBackbone
from ..errors import OutOfMemory
from ..prompts.batch import PromptBatch, TextBatch
from ._memory import Losses, bytes_per_token, free_memory, is_out_of_memory, token_losses
from ._split import cut, least_padded

log = logging.getLogger("softprompt")
T = TypeVar("T")

# Largest tokens x hidden size of a pass on a CPU. The activations of a larger pass do not fit into the caches, so that
# it is not faster: benchmarks/rows.py.
CPU_NUMBERS = 2**21
# Fixed cost of a pass on a CPU, in tokens, times the hidden size: benchmarks/rows.py.
CPU_PASS = 2**14
# Share of the free memory that a pass may take, because other processes need memory too.
SHARE = 0.8
# Memory of a pass on a CPU as a multiple of what is kept for the backward pass: outputs and gradients come on top.
PASSING = 1.5


@final
class MemoryBudget:
    """The largest size of a pass. It shrinks when memory runs out and never grows.

    Args:
        tokens: largest rows x longest row of a pass, prompt and labels included; None sets no bound. A single longer
            row gets a pass of its own.
        rows: largest number of rows of a pass; None sets no bound.
        each: fixed cost of a pass, in tokens. Rows are split to save padding where that saves more than it costs. None
            splits no rows to save padding.
        exact: whether the split leaves results unchanged. It does not if the frozen model's dropout is on.
    """

    def __init__(
        self, tokens: int | None = None, rows: int | None = None, *, each: float | None = None, exact: bool = True
    ):
        self.tokens, self.rows, self.each, self.exact = tokens, rows, each, exact
        self._most, self._longest = 0, 0

    @classmethod
    def of(cls, backbone: AbstractBackbone, *, exact: bool = True) -> "MemoryBudget":
        """Return the budget of a backbone: bounded by the caches, with little padding, on a CPU; unbounded elsewhere.

        If the frozen model's dropout is on (not `exact`), only a lack of memory splits rows.
        """
        if not exact or backbone.device.type != "cpu":
            return cls(exact=exact)
        tokens = CPU_NUMBERS // backbone.hidden_size
        if backbone.engine != "reference":
            # Our own engines have no padding. Rows of mixed lengths fill about half of rows x longest row.
            return cls(2 * tokens)
        return cls(tokens, each=CPU_PASS / backbone.hidden_size)

    def bound(self, tokens: int | None, rows: int | None = None) -> None:
        """Lower the bounds to these, unless the present ones are smaller; None sets none."""
        self.tokens, self.rows = (
            min((x for x in pair if x is not None), default=None) for pair in ((self.tokens, tokens), (self.rows, rows))
        )

    def fit(
        self,
        backbone: AbstractBackbone,
        prompt_batch: PromptBatch,
        longest: TextBatch,
        rows: int,
        graphs: int = 1,
        losses: Losses = token_losses,
        behind: int = 0,
    ) -> None:
        """Bound the passes by the free memory, after a measurement on one row. A warning says if that splits them.

        Args:
            backbone: the frozen model.
            prompt_batch: the prompts, as leaves that require gradients.
            longest: the longest row.
            rows: number of rows of a pass that is not split.
            graphs: number of passes whose activations are kept at the same time.
            losses: computes the loss of each row.
            behind: positions of the labels, or of the answer, that it reads behind the row.
        """
        width = prompt_batch.vectors.shape[1] + longest.ids.shape[1] + behind
        try:
            token_bytes = graphs * bytes_per_token(backbone, prompt_batch, longest, losses, behind)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.rows = 1
            return
        token_bytes *= 1.0 if backbone.device.type == "cuda" else PASSING
        free = free_memory(backbone.device)
        fitting = max(width, int(SHARE * free / max(token_bytes, 1.0)))
        whole = rows * width if self.tokens is None else min(rows * width, max(self.tokens, width))
        if fitting < whole:
            self.tokens = fitting
            log.warning(
                "%d rows of up to %d tokens would take about %.1f GB, %.1f GB are free: they go through the frozen "
                "model in parts of at most %d tokens%s", rows, width, rows * width * token_bytes / 1e9, free / 1e9,
                fitting, self._consequence,
            )  # fmt: skip

    def parts(self, lengths: Sequence[int]) -> list[list[int]]:
        """Split rows into passes: one pass with all rows in their order if they fit, else the longest rows first.

        Args:
            lengths: length of each row, prompt and labels included.

        Returns:
            The indices of the rows of each pass.
        """
        if self.each is not None:
            return self._seen(least_padded(lengths, self.each, rows=self.rows, tokens=self.tokens), lengths)
        if self._fits(len(lengths), max(lengths)):
            return self._seen([list(range(len(lengths)))], lengths)
        return self.cut(sorted(range(len(lengths)), key=lambda row: -lengths[row]), lengths, len(lengths))

    def cut(self, rows: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
        """Cut these rows, in their order, into passes of at most `most` rows.

        Args:
            rows: indices into `lengths`.
            lengths: length of every row, prompt and labels included.
            most: largest number of rows of a pass.
        """
        most = most if self.rows is None else min(most, self.rows)
        return self._seen(cut(rows, [lengths[row] for row in rows], most, self.tokens), lengths)

    def within(self, work: Callable[[], T]) -> T:
        """Return what `work` returns. If memory runs out, halve the rows per pass and start `work` again.

        Raises:
            OutOfMemory: a single row does not fit into memory.
        """
        while True:
            self._most = self._longest = 0
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                # Without a pass there is nothing to halve.
                if not is_out_of_memory(error) or not self._most:
                    raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            # This runs outside the handler, because the traceback keeps the tensors of the pass alive.
            self._halve(reason)

    def state(self) -> dict[str, Any]:
        """Return the values for a checkpoint. A resumed run needs the same passes, because others round differently."""
        return {"tokens": self.tokens, "rows": self.rows}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the bounds of a checkpoint, unless the present ones are smaller."""
        self.bound(state.get("tokens"), state.get("rows"))

    @property
    def _consequence(self) -> str:
        return "; results stay the same" if self.exact else "; each draws its own dropout of the frozen model"

    def _fits(self, rows: int, longest: int) -> bool:
        few = self.rows is None or rows <= self.rows
        return few and (self.tokens is None or rows * longest <= self.tokens)

    def _seen(self, parts: list[list[int]], lengths: Sequence[int]) -> list[list[int]]:
        self._most = max([self._most, *map(len, parts)])
        self._longest = max([self._longest, *lengths])
        return parts

    def _halve(self, reason: str) -> None:
        if self._most == 1:
            raise OutOfMemory(
                f"one row of {self._longest} tokens, prompt included, does not fit into memory ({reason}); give a "
                "lower --max-length, a shorter prompt, a regulariser that stops the clean side, or a smaller model"
            )
        self.rows = self._most // 2
        log.warning("out of memory: from now on at most %d rows a pass%s", self.rows, self._consequence)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
