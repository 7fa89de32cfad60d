"""Answers as they are written: server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from ...errors import SoftPromptError
from ..work import Answer, Work
from .problems import body, status_of
from .service import Service, listening

Usage = Callable[[Sequence[Work], Sequence[Answer]], dict[str, Any]]


async def events(
    service: Service, work: Work, chunk: Callable[..., dict[str, Any]], usage: Usage | None
) -> AsyncIterator[bytes]:
    """The parts of one answer as events. What is refused is refused before the first of them.

    Args:
        service: answers.
        work: the row.
        chunk: makes an object of each part of the text.
        usage: makes the last object; None leaves it out.

    Raises:
        SoftPromptError: the answer was refused before anything was written.
    """
    texts: asyncio.Queue[str] = asyncio.Queue()
    work.tell = listening(asyncio.get_running_loop(), texts.put_nowait)
    answering = asyncio.ensure_future(service.batcher.answer([work]))
    next_text = asyncio.ensure_future(texts.get())
    try:
        await asyncio.wait({answering, next_text}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            answering.result()
    except BaseException:
        answering.cancel()
        raise
    finally:
        next_text.cancel()
    first = next_text.result() if next_text.done() and not next_text.cancelled() else ""
    return _events(work, texts, first, answering, chunk, usage)


async def _events(
    work: Work,
    texts: "asyncio.Queue[str]",
    text: str,
    answering: "asyncio.Future[list[Answer]]",
    chunk: Callable[..., dict[str, Any]],
    usage: Usage | None,
) -> AsyncIterator[bytes]:
    sent = ""
    try:
        yield _event(chunk(text, first=True))
        sent = text
        while not (answering.done() and texts.empty()):
            getting = asyncio.ensure_future(texts.get())
            try:
                await asyncio.wait({answering, getting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                getting.cancel()
            if not getting.done():
                continue
            if len(text := getting.result()) > len(sent):
                yield _event(chunk(text[len(sent) :]))
                sent = text
        answer = answering.result()[0]
        # A label is there at once, and so is what the last token made whole.
        if len(answer.text) > len(sent):
            yield _event(chunk(answer.text[len(sent) :]))
        yield _event(chunk("", answer.finish))
        if usage is not None:
            yield _event(usage([work], [answer]))
        yield b"data: [DONE]\n\n"
    except SoftPromptError as error:
        status, code = status_of(error)
        yield _event(body(status, error.message, code))
    finally:
        # A client that leaves ends its answer.
        answering.cancel()


def _event(values: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(values, ensure_ascii=True).encode() + b"\n\n"
