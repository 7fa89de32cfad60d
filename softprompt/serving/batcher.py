"""The batcher: collects rows of several clients into passes of one model, within bounds.

All of it runs in one event loop, only the passes run in a thread of their own. So nothing here needs a lock.
"""

import asyncio
import concurrent.futures
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from .engine import Engine, Outcome
from .faults import Draining, Overloaded, TooLate, TooLong
from .passes import Limits, next_pass
from .work import Answer, Work

# How much the last pass counts in the speed from which Retry-After is told.
LAST = 0.2


@final
@dataclass(frozen=True)
class Ran:
    """A pass that has run: its rows, how many prompts they had, its positions, and its seconds."""

    rows: int
    prompts: int
    tokens: int
    seconds: float


@final
class Batcher:
    """Collects rows into passes. Start it within the event loop that will use it.

    Args:
        engine: answers the passes.
        limits: what is taken, and how much of it in one pass.
        seen: is told of each pass that has run.
    """

    def __init__(self, engine: Engine, limits: Limits | None = None, seen: Callable[[Ran], None] | None = None):
        self.engine, self.limits, self.seen = engine, limits or Limits(), seen
        self.waiting: dict[Work, asyncio.Future[Answer]] = {}
        # Tokens of the rows that wait, kept up to date: adding up ten thousand rows at each request would be slow.
        self.waiting_tokens = 0
        # Rows that were refused since the last pass began, and what was waiting then.
        self._refused: tuple[int, int] | None = None
        self.running = 0
        self.draining = False
        self._arrived = asyncio.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "softprompt-model")
        self._tokens_per_second = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether passes are run."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to run passes."""
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def close(self, seconds: float = 30.0) -> None:
        """Take nothing more, answer what was taken within so many seconds, and end."""
        self.draining = True
        end = time.monotonic() + seconds
        while (self.waiting or self.running) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        for work, future in list(self.waiting.items()):
            work.left = True
            if not future.done():
                future.set_exception(Draining("the server ended before this request was answered; send it again"))
        for work in list(self.waiting):
            self._pop(work)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def answer(self, works: Sequence[Work]) -> list[Answer]:
        """The answers to the rows of one request, in their order. Cancel the call to free what it waits for.

        Raises:
            TooLong: the request has more rows or tokens than one may have.
            Overloaded: too much is waiting.
            Draining: the server ends.
            TooLate: the deadline of a row was over.
            SoftPromptError: a row cannot be answered.
        """
        self._refuse(works)
        loop = asyncio.get_running_loop()
        futures = {work: loop.create_future() for work in works}
        self.waiting.update(futures)
        self.waiting_tokens += sum(work.cost for work in futures)
        self._arrived.set()
        try:
            return list(await asyncio.gather(*futures.values()))
        finally:
            for work, future in futures.items():
                work.left = True
                self._pop(work)
                if not future.done():
                    future.cancel()
                elif not future.cancelled():
                    # Looked at, so that asyncio does not log a second row's error as never retrieved.
                    future.exception()

    def _refuse(self, works: Sequence[Work]) -> None:
        if self.draining:
            raise Draining("the server ends and takes no more requests; send it to another one")
        cost, limits = sum(work.cost for work in works), self.limits
        if cost > limits.request_tokens:
            raise TooLong(f"this request needs {cost} tokens, one may need {limits.request_tokens}; send less at once")
        waiting = self.waiting_tokens
        # One request is always taken: what is allowed for one is never more than what may wait.
        if waiting and waiting + cost > limits.waiting_tokens:
            self._refused = len(works), waiting
            raise self._overloaded()

    def refuse_early(self, rows: int) -> None:
        """Refuse a request before its texts are read: as many rows were refused since the last pass began.

        To read texts costs more than to refuse them, and a server that is asked too much has no time for it.

        Args:
            rows: of the request.

        Raises:
            Overloaded: as in `answer`.
        """
        if self._refused is not None and rows >= self._refused[0]:
            self.refuse_full()

    def refuse_full(self) -> None:
        """Refuse what is no smaller than what was refused since the last pass began.

        Raises:
            Overloaded: as in `answer`.
        """
        if self._refused is not None and self.waiting_tokens >= self._refused[1]:
            raise self._overloaded()

    @property
    def retry_after(self) -> int:
        """Seconds after which there is probably room."""
        speed = self._tokens_per_second or self.limits.batch_tokens
        return min(60, max(1, math.ceil(self.waiting_tokens / speed)))

    def _overloaded(self) -> Overloaded:
        return Overloaded(self.waiting_tokens, self.limits.waiting_tokens, self.retry_after)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            await self._others()
            self._drop()
            if not self.waiting:
                self._arrived.clear()
                continue
            works = next_pass(list(self.waiting), self.limits, self.engine.backbone.max_positions)
            futures = [self._pop(work) for work in works]
            self._refused = None
            self.running, began = len(works), time.monotonic()
            try:
                outcomes: Sequence[Outcome] = await loop.run_in_executor(self._thread, self.engine.run, works)
            finally:
                self.running = 0
            self._told(works, time.monotonic() - began)
            for future, outcome in zip(futures, outcomes, strict=True):
                if future is not None:
                    _settle(future, outcome)

    def _pop(self, work: Work) -> asyncio.Future[Answer] | None:
        """A row waits no longer; None where it did not."""
        if (future := self.waiting.pop(work, None)) is not None:
            self.waiting_tokens -= work.cost
        return future

    async def _others(self) -> None:
        """Wait for more rows to ride along, if the oldest has not waited long enough and there is room."""
        wait = self.limits.max_wait
        if not wait or not self.waiting or len(self.waiting) >= self.limits.batch_rows:
            return
        left = next(iter(self.waiting)).began + wait - time.monotonic()
        if left > 0:
            await asyncio.sleep(left)

    def _drop(self) -> None:
        """Free the rows whose clients have left or whose time is over."""
        now = time.monotonic()
        for work, future in list(self.waiting.items()):
            if future.done() or work.left:
                self._pop(work)
            elif now > work.deadline:
                self._pop(work)
                future.set_exception(TooLate("the time for this request was over while it waited; try again later"))

    def _told(self, works: Sequence[Work], seconds: float) -> None:
        tokens = sum(work.cost for work in works)
        speed = tokens / max(seconds, 1e-6)
        self._tokens_per_second += LAST * (speed - self._tokens_per_second) if self._tokens_per_second else speed
        if self.seen is not None:
            self.seen(Ran(len(works), len({id(work.served) for work in works}), tokens, seconds))


def _settle(future: asyncio.Future[Answer], outcome: Outcome) -> None:
    if future.done():
        return
    if isinstance(outcome, Answer):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)
