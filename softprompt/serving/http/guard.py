"""Around every request: its id, who may ask, slow clients, one line of the log, and no error that tells too much."""

import asyncio
import hmac
import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, final

from ..faults import Overloaded
from .problems import ClientLeft, of_error, response
from .service import Service

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

log = logging.getLogger("softprompt.serving")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# What is answered to everybody.
OPEN = ("/", "/health", "/ready")
# What changes prompts.
CHANGES = ("PUT", "DELETE", "POST", "PATCH")
# Of a client that left before its answer; no client sees it.
LEFT = 499
# Of a request for which there is no room.
BUSY = 429


@final
class Guard:
    """The outermost layer of the app, in plain ASGI, so that streams pass through it as they come.

    Args:
        app: what is guarded.
        service: with settings and metrics.
    """

    def __init__(self, app: Any, service: Service):
        self.app, self.service = app, service
        # Bytes of the body that was refused last because too much was waiting.
        self._refused_bytes = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        request = _Request(
            scope, receive, send, given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, self.service
        )
        began = time.monotonic()
        scope.setdefault("state", {})["request_id"] = request.id
        try:
            refused = self._refused(scope, headers.get(b"authorization", "")) or await request.take()
            refused = refused or self._busy(scope, request)
            await (refused or self.app)(scope, request.receive, request.send)
            if request.status == BUSY and not refused:
                self._refused_bytes = request.bytes
        except ClientLeft:
            request.status = LEFT
        except TimeoutError:
            # Of a part of the answer: the client does not take it.
            request.status = LEFT
        # Whatever it is: the client is told nothing of it, and the log nothing of the client's text.
        except Exception as error:
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("request %s: %s\n%s", request.id, type(error).__name__, frames)
            await request.end(500, f"something went wrong here; the log knows request {request.id}", "server_error")
        finally:
            self._note(scope, request, time.monotonic() - began)

    def _refused(self, scope: Message, authorization: str) -> Any:
        """The response to a request that may not be made; None where it may."""
        settings, path = self.service.settings, scope["path"]
        scheme, _, token = authorization.partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        if path.startswith("/prompts/") and scope["method"] in CHANGES:
            if settings.admin_token is None:
                return response(403, "this server was started without an admin token and takes no changes", "forbidden")
            if not _same(token, settings.admin_token):
                return _unauthorized("changes need the admin token, as `Authorization: Bearer TOKEN`")
            return None
        if path in OPEN or not settings.keys:
            return None
        known = [*settings.keys, *([settings.admin_token] if settings.admin_token else [])]
        if any([_same(token, key) for key in known]):
            return None
        return _unauthorized("this server needs an API key, as `Authorization: Bearer KEY`")

    def _busy(self, scope: Message, request: "_Request") -> Any:
        """The response to a request before its body is read as JSON: one that was no longer has just been refused."""
        if scope["method"] == "POST" and request.bytes >= self._refused_bytes:
            try:
                self.service.batcher.refuse_full()
            except Overloaded as error:
                return of_error(error)
        return None

    def _note(self, scope: Message, request: "_Request", seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.service.metrics.answered(route, request.status, seconds)
        values = {
            "request": request.id,
            "method": scope["method"],
            "route": route,
            "status": request.status,
            "ms": round(1000 * seconds, 1),
            **scope["state"].get("noted", {}),
        }
        log.info("%s", json.dumps(values))


@final
class _Request:
    """One request with its clocks and what was answered so far."""

    def __init__(self, scope: Message, receive: Receive, send: Send, request_id: str, service: Service):
        self.scope, self._receive, self._send, self.id = scope, receive, send, request_id
        self.settings = service.settings
        self.status = 500
        self.is_started = False
        self.bytes = 0
        self._body: bytes | None = b""

    async def take(self) -> Any:
        """Read the whole body; the response to one that is too long, or that takes too long to arrive."""
        most, body, more = self.settings.body_bytes, bytearray(), True
        try:
            async with asyncio.timeout(self.settings.body_timeout):
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        return response(413, f"a request may have {most} bytes; send less at once", "request_too_large")
        except TimeoutError:
            return response(408, "the request took too long to arrive; send it again", "timeout")
        self._body, self.bytes = bytes(body), len(body)
        return None

    async def receive(self) -> Message:
        """The body, and then what comes behind it: that the client has left."""
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Send a part of the answer; late where the client does not take it."""
        if message["type"] == "http.response.start":
            self.status, self.is_started = message["status"], True
            message = {**message, "headers": [*message.get("headers", []), *self._headers()]}
        async with asyncio.timeout(self.settings.send_timeout):
            await self._send(message)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-request-id", self.id.encode()), (b"x-content-type-options", b"nosniff")]

    async def end(self, status: int, message: str, code: str) -> None:
        """Answer with an error, if nothing was answered yet."""
        if self.is_started:
            self.status = status
            return
        await response(status, message, code)(self.scope, self.receive, self.send)


def _same(given: str, expected: str) -> bool:
    """Compared in a time that tells nothing of where the two differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _unauthorized(message: str) -> Any:
    return response(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
