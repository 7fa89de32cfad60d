"""What is kept of each row while a batch of answers is written, token by token."""

import time
from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..backbones import NOTHING
from ..inference.answers import no_answer
from .faults import TooLate
from .work import Answer, Work

# What a tokenizer decodes bytes to that are only a part of a character.
PARTIAL = "\ufffd"


@final
class Writing:
    """Watches the answers of a batch: each row has a limit, a deadline and a client of its own.

    Args:
        works: the rows.
        tokenizer: that reads the tokens.
        ends: tokens that end an answer.
    """

    def __init__(self, works: Sequence[Work], tokenizer: Any, ends: Sequence[int]):
        self.works, self.tokenizer, self.ends = works, tokenizer, frozenset(ends)
        self.written: list[list[int]] = [[] for _ in works]
        self.finished = [False] * len(works)
        self.ended = [False] * len(works)
        self.late = [False] * len(works)
        self.lost = [False] * len(works)

    def __call__(self, tokens: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Keep the next token of each row, and say which rows stop."""
        now = time.monotonic()
        for row, token in enumerate(tokens.tolist()):
            if not self.finished[row]:
                self._next(row, token, now)
        return torch.tensor(self.finished, device=tokens.device)

    def _next(self, row: int, token: int, now: float) -> None:
        work, written = self.works[row], self.written[row]
        if token == NOTHING:
            self.lost[row] = self.finished[row] = True
            return
        written.append(token)
        self.late[row] = now > work.deadline
        ends = token in self.ends or self._stopped(row)
        self.ended[row] = ends
        self.finished[row] = ends or work.left or self.late[row] or len(written) >= work.wants
        if work.tell is not None and not work.left:
            work.tell(self.text(row))

    def _stopped(self, row: int) -> bool:
        stops = self.works[row].stops
        return bool(stops) and any(stop in self._decoded(row) for stop in stops)

    def _decoded(self, row: int) -> str:
        # Blanks before an answer are no part of it, so that no stop is found in them.
        return self.tokenizer.decode(self.written[row], skip_special_tokens=True).lstrip()

    def text(self, row: int) -> str:
        """The text of a row so far, without blanks at its ends.

        While it is written, a character that is not whole is left out, and what may be the beginning of a stop.
        """
        stops = self.works[row].stops
        text = until(self._decoded(row), stops)
        if self.finished[row]:
            return text.strip()
        return (
            text[: len(text) - max((_begun(text, stop) for stop in stops), default=0)].strip().rstrip(PARTIAL).rstrip()
        )

    def outcomes(self) -> list[Answer | Exception]:
        """The answer of each row."""
        return [self._outcome(row) for row in range(len(self.works))]

    def _outcome(self, row: int) -> Answer | Exception:
        if self.late[row]:
            return TooLate("the time for this request was over before its answer was whole; ask for fewer tokens")
        if self.lost[row]:
            return no_answer()
        # What was not ended by its own limit was ended by the model's positions.
        self.finished[row] = True
        text = self.text(row)
        return Answer(text, text, None, len(self.written[row]), "stop" if self.ended[row] else "length")


def until(text: str, stops: Sequence[str]) -> str:
    """The text before the first of these stops, or the whole."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
