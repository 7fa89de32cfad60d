"""What all routes share: the prompts, the engine, the batcher and the settings."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar, final

from fastapi import Request

from ...errors import BadInput, SoftPromptError, UnknownName
from ..bank import PromptBank
from ..batcher import Batcher
from ..engine import Engine
from ..faults import Overloaded
from ..passes import Limits
from ..served import ServedPrompt
from ..work import Answer, Work
from .metrics import Metrics
from .problems import ClientLeft, not_served
from .settings import ServerSettings

T = TypeVar("T")
# Texts that may wait to be tokenised, beside one request: what is refused after more of them is refused late.
UNREAD = 1024


@final
class Service:
    """A served model.

    Args:
        bank: its prompts.
        engine: that answers.
        settings: of the server.
        limits: of the batcher.
    """

    def __init__(self, bank: PromptBank, engine: Engine, settings: ServerSettings, limits: Limits | None = None):
        self.bank, self.engine, self.settings = bank, engine, settings
        self._unread = 0
        self.metrics = Metrics()
        self.batcher = Batcher(engine, limits, self.metrics.ran)
        self.metrics.watch(self.batcher, bank)

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        return self.batcher.is_alive and not self.batcher.draining

    def served(self, model: str) -> ServedPrompt:
        """The prompt that "base:prompt" names, or the frozen model for "base".

        Raises:
            NotServed: another model, or a prompt that is not served, with the nearest name.
            BadInput: the frozen model generates nothing.
        """
        base, colon, name = model.rpartition(":")
        ours = self.settings.model_name
        if model == ours:
            return self.bank.admission.frozen
        if not colon or base != ours:
            names = [ours, *(f"{ours}:{prompt}" for prompt in self.bank.prompts)]
            raise not_served(UnknownName("model", model, names))
        try:
            return self.bank.get(name)
        except SoftPromptError as error:
            raise not_served(error) from error

    def named(self, served: ServedPrompt) -> str:
        """The name of a prompt as a model."""
        return f"{self.settings.model_name}:{served.name}" if served.name else self.settings.model_name

    async def works(self, request: Request, served: ServedPrompt, inputs: Sequence[Any], **options: Any) -> list[Work]:
        """Texts or rows as work, tokenised in another thread unless the client leaves before it is their turn.

        Raises:
            BadInput: too many texts, or one that cannot be answered; its number is told.
            Overloaded: too much is waiting.
            ClientLeft: nobody waits any more.
        """
        if len(inputs) > self.settings.max_inputs:
            raise BadInput(f"{len(inputs)} inputs in one request, {self.settings.max_inputs} are allowed; send fewer")
        self.batcher.refuse_early(len(inputs))
        deadline = time.monotonic() + self.batcher.limits.timeout
        make = partial(self._work, served, deadline=deadline, several=len(inputs) > 1, **options)
        if self._unread and self._unread + len(inputs) > UNREAD:
            raise Overloaded(self._unread, UNREAD, self.batcher.retry_after, unit="texts")
        making = asyncio.to_thread(lambda: [make(number, given) for number, given in enumerate(inputs, 1)])
        self._unread += len(inputs)
        try:
            return await unless_left(request, making)
        finally:
            self._unread -= len(inputs)

    def _work(self, served: ServedPrompt, number: int, given: Any, *, several: bool, **options: Any) -> Work:
        try:
            longest = options.pop("max_new_tokens", None) or served.asked.scoring.max_new_tokens
            most = self.settings.max_new_tokens
            return self.engine.work(served, given, max_new_tokens=min(longest, most), **options)
        except SoftPromptError as error:
            if several and isinstance(error, BadInput):
                raise type(error)(f"input {number}: {error.message}") from error
            raise

    async def answers(self, request: Request, works: Sequence[Work]) -> list[Answer]:
        """The answers. If the client leaves, its work is freed.

        Raises:
            ClientLeft: nobody waits any more.
            SoftPromptError: as in `Batcher.answer`.
        """
        return await unless_left(request, self.batcher.answer(works))


async def unless_left(request: Request, doing: Coroutine[Any, Any, T]) -> T:
    """The result of what is done for a client. If the client leaves first, it is cancelled.

    Raises:
        ClientLeft: nobody waits any more.
    """
    task, leaving = asyncio.ensure_future(doing), asyncio.ensure_future(left(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()


async def left(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def listening(loop: asyncio.AbstractEventLoop, put: Callable[[str], None]) -> Callable[[str], None]:
    """A listener for the model's thread that hands each text to the event loop."""

    def tell(text: str) -> None:
        loop.call_soon_threadsafe(put, text)

    return tell
