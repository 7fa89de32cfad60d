"""OpenAI's shapes: models, completions and chats. The answer is what `softprompt.predict` gives."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ...errors import BadInput
from ..served import ServedPrompt
from ..work import Answer, Work
from .schemas import Chat, Completion, Generation
from .service import Service
from .streams import events


def openai_routes(service: Service) -> APIRouter:
    """The routes of `/v1/...`."""
    router, started = APIRouter(prefix="/v1", tags=["OpenAI"]), int(time.time())

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "softprompt"}

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """The frozen model, and it with each prompt."""
        ours = service.settings.model_name
        return {"object": "list", "data": [model(n) for n in (ours, *(f"{ours}:{p}" for p in service.bank.prompts))]}

    @router.get("/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        """One of them."""
        if name != service.settings.model_name:
            service.served(name)
        return model(name)

    @router.post("/completions")
    async def completions(request: Request, asked: Completion) -> Response:
        """The answer to each text or row."""
        inputs = asked.prompt if isinstance(asked.prompt, list) else [asked.prompt]
        return await _respond(service, request, asked, inputs, asked.max_tokens, "text")

    @router.post("/chat/completions")
    async def chat(request: Request, asked: Chat) -> Response:
        """The answer to the message of a user."""
        if len(asked.messages) != 1 or asked.messages[0].role != "user":
            raise BadInput(
                "a prompt answers one text, as it was trained to: send one message of role 'user', without a system "
                "message and without earlier turns"
            )
        if len(columns := service.served(asked.model).asked.task.columns) > 1:
            raise BadInput(
                f"{asked.model!r} answers rows of {', '.join(columns)}, which a message has no place for; ask "
                "/v1/completions, with such a row as prompt"
            )
        most = asked.max_completion_tokens or asked.max_tokens
        return await _respond(service, request, asked, [asked.messages[0].text], most, "chat")

    return router


async def _respond(
    service: Service, request: Request, asked: Generation, inputs: Sequence[Any], most: int | None, kind: str
) -> Response:
    served = service.served(asked.model)
    if most is not None and most > service.settings.max_new_tokens:
        raise BadInput(f"{most} tokens are asked for, {service.settings.max_new_tokens} are allowed; ask for fewer")
    if asked.stream and len(inputs) != 1:
        raise BadInput("one text at a time is streamed; send one, or leave stream out")
    works = await service.works(
        request, served, inputs, max_new_tokens=most, truncate=asked.truncate, stops=asked.stops
    )
    request.state.noted = {"model": service.named(served), "rows": len(works)}
    shape = Shape(kind, service.named(served), served)
    if asked.stream:
        with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        stream = await events(service, works[0], shape.chunk, shape.usage if with_usage else None)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    answers = await service.answers(request, works)
    return JSONResponse(shape.whole(works, answers))


class Shape:
    """The objects of one response.

    Args:
        kind: "text" for completions, "chat" for chats.
        model: its name.
        served: the prompt.
    """

    def __init__(self, kind: str, model: str, served: ServedPrompt):
        self.kind = kind
        self.common = {
            "id": f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            # A prompt that was replaced under the same name has another one.
            "system_fingerprint": served.version or None,
        }

    def whole(self, works: Sequence[Work], answers: Sequence[Answer]) -> dict[str, Any]:
        """All answers."""
        chat = self.kind == "chat"
        choices = [
            {
                "index": number,
                **({"message": {"role": "assistant", "content": answer.text}} if chat else {"text": answer.text}),
                "logprobs": None,
                "finish_reason": answer.finish,
            }
            for number, answer in enumerate(answers)
        ]
        kind = "chat.completion" if chat else "text_completion"
        return {**self.common, "object": kind, "choices": choices, "usage": usage_of(works, answers)}

    def chunk(self, text: str, finish: str | None = None, *, first: bool = False) -> dict[str, Any]:
        """A part of a streamed answer."""
        delta: dict[str, Any] = {"text": text}
        if self.kind == "chat":
            delta = {"delta": {**({"role": "assistant"} if first else {}), **({"content": text} if text else {})}}
        choice = {"index": 0, **delta, "logprobs": None, "finish_reason": finish}
        return {**self.common, "object": self._chunks, "choices": [choice]}

    def usage(self, works: Sequence[Work], answers: Sequence[Answer]) -> dict[str, Any]:
        """The last part of a stream that was asked to count."""
        return {**self.common, "object": self._chunks, "choices": [], "usage": usage_of(works, answers)}

    @property
    def _chunks(self) -> str:
        return "chat.completion.chunk" if self.kind == "chat" else "text_completion"


def usage_of(works: Sequence[Work], answers: Sequence[Answer]) -> dict[str, int]:
    """How many tokens were read, those of prompts included, and written."""
    read, written = sum(work.length for work in works), sum(answer.tokens for answer in answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
