"""Which of the waiting rows share a pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ..checks import require_numbers
from .work import Work


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes, and how much of it in one pass.

    Args:
        batch_tokens: positions of one pass, prompts, texts, answers, scored labels and padding together.
        batch_rows: rows of one pass.
        max_wait: seconds that a row waits for others while the model is idle.
        waiting_tokens: positions that may wait; a request that would exceed them is refused.
        request_tokens: positions of all rows of one request.
        timeout: seconds after which a request that is not answered is given up.
        spread: how many times as long as its shortest row the longest of a pass may be.
    """

    batch_tokens: int = 16384
    batch_rows: int = 64
    max_wait: float = 0.002
    waiting_tokens: int = 262144
    request_tokens: int = 65536
    timeout: float = 60.0
    spread: float = 4.0

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could be answered.

        Raises:
            BadInput: names the limit.
        """
        whole = ("batch_tokens", "batch_rows", "waiting_tokens", "request_tokens")
        require_numbers({name: getattr(self, name) for name in whole}, whole=True)
        require_numbers({"timeout": self.timeout, "spread": self.spread})
        require_numbers({"max_wait": self.max_wait}, zero=True)


# What a row of a few tokens may be compared with: all of these share a pass whatever the spread.
SHORT = 32


def next_pass(waiting: Sequence[Work], limits: Limits, max_positions: int | None) -> list[Work]:
    """The rows of the next pass: the oldest one, and those of the others that fit it best, the oldest first.

    Rows fit that are all scored or all written, and are of similar length. The oldest row is always among them, however
    long it is, so that no row waits forever.

    Args:
        waiting: the rows, the oldest first.
        limits: of a pass.
        max_positions: of the model; generated answers of all rows have to fit after the longest.
    """
    first = waiting[0]
    chosen, longest, shortest, wants = [first], first.length, max(first.length, SHORT), first.wants
    behind = first.served.asked.behind
    if first.is_alone:
        return chosen
    for work in waiting[1:]:
        if len(chosen) >= limits.batch_rows:
            break
        if work.is_alone or work.served.asked.writes != first.served.asked.writes:
            continue
        high, low = max(longest, work.length), min(shortest, max(work.length, SHORT))
        most, read = max(wants, work.wants), max(behind, work.served.asked.behind)
        if high > limits.spread * low or (len(chosen) + 1) * (high + most + read) > limits.batch_tokens:
            continue
        if max_positions is not None and most and high + most - 1 > max_positions:
            continue
        chosen.append(work)
        longest, shortest, wants, behind = high, low, most, read
    return chosen
