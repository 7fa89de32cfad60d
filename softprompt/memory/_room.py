"""How many rows share a pass, and how rows are split that are too many for one."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, final

import torch

from ..backbones import AbstractBackbone
from ..data import cut
from ..errors import OutOfMemory
from ..prompts.batch import PromptBatch, TextBatch
from ._memory import bytes_per_token, free_memory, is_out_of_memory
from ._split import least_padded

log = logging.getLogger("softprompt")
T = TypeVar("T")

# Tokens x hidden size of a pass on a CPU. Beyond it a pass gains nothing, and its activations leave the caches:
# benchmarks/rows.py.
CPU_NUMBERS = 2**21
# What a pass costs on a CPU beside its tokens, in tokens, times the hidden size: benchmarks/rows.py.
CPU_PASS = 2**14
# Of the free memory, what a pass may take: other processes live too.
SHARE = 0.8
# What a pass takes on a CPU over what it keeps for the way back: outputs and gradients on their way.
PASSING = 1.5


@final
class MemoryBudget:
    """How many rows a pass may have. Less after memory ran out, never more.

    Args:
        tokens: most rows x longest row, prompt included; None is no bound. A single row above it stands alone.
        rows: most rows; None is no bound.
        each: what a pass costs beside its tokens, in tokens: rows are split so that they are padded less, where that
            saves more; None splits no rows for that.
        exact: whether passes of other rows give the same result; not so where the frozen model's dropout is on.
    """

    def __init__(
        self, tokens: int | None = None, rows: int | None = None, *, each: float | None = None, exact: bool = True
    ):
        self.tokens, self.rows, self.each, self.exact = tokens, rows, each, exact
        self._most, self._longest = 0, 0

    @classmethod
    def of(cls, backbone: AbstractBackbone, *, exact: bool = True) -> "MemoryBudget":
        """Of a backbone: on a CPU what the caches are good for, and little padding; else no bound.

        Where the frozen model's dropout is on, rows are split for want of memory only.
        """
        if not exact or backbone.device.type != "cpu":
            return cls(exact=exact)
        tokens = CPU_NUMBERS // backbone.hidden_size
        if backbone.engine == "packed":
            # No padding to save; and of the rectangle that is counted, rows of mixed lengths fill half.
            return cls(2 * tokens)
        return cls(tokens, each=CPU_PASS / backbone.hidden_size)

    def fit(
        self, backbone: AbstractBackbone, prompt_batch: PromptBatch, longest: TextBatch, rows: int, graphs: int = 1
    ) -> None:
        """Bound the passes by the free memory, after a measurement on one row; one line where that splits them.

        Args:
            backbone: frozen.
            prompt_batch: the prompts, leaves that ask for gradients.
            longest: the longest row.
            rows: of a pass that is not split.
            graphs: passes whose activations are kept at once.
        """
        width = prompt_batch.vectors.shape[1] + longest.ids.shape[1]
        try:
            each = graphs * bytes_per_token(backbone, prompt_batch, longest)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.rows = 1
            return
        each *= 1.0 if backbone.device.type == "cuda" else PASSING
        free = free_memory(backbone.device)
        fits = max(width, int(SHARE * free / max(each, 1.0)))
        whole = rows * width if self.tokens is None else min(rows * width, max(self.tokens, width))
        if fits < whole:
            self.tokens = fits
            log.warning(
                "%d rows of up to %d tokens would take about %.1f GB, %.1f GB are free: they go through the frozen "
                "model in parts of at most %d tokens%s", rows, width, rows * width * each / 1e9, free / 1e9, fits,
                self._consequence,
            )  # fmt: skip

    def parts(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which rows share a pass: all in their order, or, where there is no room for all, the longest first.

        Args:
            lengths: of each row, prompt included.
        """
        if self.each is not None:
            return self._seen(least_padded(lengths, self.each, rows=self.rows, tokens=self.tokens), lengths)
        if self._fits(len(lengths), max(lengths)):
            return self._seen([list(range(len(lengths)))], lengths)
        return self.cut(sorted(range(len(lengths)), key=lambda row: -lengths[row]), lengths, len(lengths))

    def cut(self, rows: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
        """These rows in their order, in passes of `most` rows or fewer.

        Args:
            rows: indices into `lengths`.
            lengths: of all rows, prompt included.
            most: rows of a pass.
        """
        most = most if self.rows is None else min(most, self.rows)
        return self._seen(cut(rows, [lengths[row] for row in rows], most, self.tokens), lengths)

    def within(self, work: Callable[[], T]) -> T:
        """What `work` returns; where memory runs out in it, once more from its beginning with half the rows a pass.

        Raises:
            OutOfMemory: a single row does not fit.
        """
        while True:
            self._most = self._longest = 0
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                # Nothing was to be passed, so there is nothing to halve.
                if not is_out_of_memory(error) or not self._most:
                    raise
                said = str(error).splitlines()[0] if str(error) else type(error).__name__
            # Not in the handler, whose traceback holds what the pass has kept.
            self._halve(said)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: passes of other rows round differently."""
        return {"tokens": self.tokens, "rows": self.rows}

    def restore(self, state: dict[str, Any]) -> None:
        """Never more room than there was."""
        self.tokens, self.rows = (
            min((x for x in (now, state.get(name)) if x is not None), default=None)
            for name, now in (("tokens", self.tokens), ("rows", self.rows))
        )

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

    def _halve(self, said: str) -> None:
        if self._most == 1:
            raise OutOfMemory(
                f"one row of {self._longest} tokens, prompt included, does not fit into memory ({said}); give a lower "
                "--max-length, a shorter prompt, a regulariser that stops the clean side, or a smaller model"
            )
        self.rows = self._most // 2
        log.warning("out of memory: from now on at most %d rows a pass%s", self.rows, self._consequence)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
