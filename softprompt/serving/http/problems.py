"""Errors as a client sees them: OpenAI's shape, one line, never a text that was sent."""

from collections.abc import Mapping
from typing import Any, final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ...errors import SoftPromptError, UnknownName
from ..faults import Draining, Overloaded, TooLate, TooLong

# What is answered to each kind of error; the first that fits counts.
STATUS: tuple[tuple[type[SoftPromptError], int, str], ...] = (
    (Overloaded, 429, "overloaded"),
    (TooLate, 504, "timeout"),
    (Draining, 503, "draining"),
    (TooLong, 400, "context_length_exceeded"),
    (SoftPromptError, 400, "invalid_request"),
)
CODES = {401: "invalid_api_key", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 408: "timeout",
         413: "request_too_large", 415: "unsupported_media_type"}  # fmt: skip
# What a field may be that takes several forms; pydantic tells of each form that it is not.
INPUTS = "a text, an object of columns that are texts or numbers, or a list of at least one of these"
FORMS = {
    "inputs": INPUTS,
    "prompt": INPUTS,
    "content": "a text, or a list of at least one part as {type, text}",
    "stop": "a text, or a list of at most four",
}
# As much of a name that a client sent as a message repeats.
LONGEST = 300


@final
class NotServed(SoftPromptError):
    """A model or prompt that is not served."""


@final
class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


def body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    # What a client sent comes back in names; half a character cannot be encoded.
    plain = message.encode("utf-8", "replace").decode()
    return {"error": {"message": plain[:LONGEST], "type": kind, "param": param, "code": code}}


def response(
    status: int, message: str, code: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as a response."""
    return JSONResponse(body(status, message, code, param), status, dict(headers or {}))


def of_error(error: SoftPromptError) -> JSONResponse:
    """An error of the engine as a response."""
    if isinstance(error, NotServed):
        return response(404, error.message, "model_not_found", "model")
    status, code = status_of(error)
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Overloaded) else {}
    if isinstance(error, Draining):
        headers = {"Retry-After": "5"}
    return response(status, error.message, code, headers=headers)


def status_of(error: SoftPromptError) -> tuple[int, str]:
    """The status and the code of an error of the engine."""
    return next((status, code) for kind, status, code in STATUS if isinstance(error, kind))


def not_served(error: SoftPromptError) -> NotServed:
    """The error for an unknown prompt."""
    hint = "; GET /v1/models lists them" if isinstance(error, UnknownName) else ""
    return NotServed(error.message[: LONGEST - len(hint)] + hint)


def register(app: FastAPI) -> None:
    """Let the app answer every error in this shape."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SoftPromptError)
        return of_error(error)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        place, message = _first_of(error)
        if not place and "json" not in request.headers.get("content-type", ""):
            message = "the body is read as JSON; send it with the header Content-Type: application/json"
        return response(400, f"{place}: {message}" if place else message, "invalid_request", place or None)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = CODES.get(error.status_code, "invalid_request")
        return response(error.status_code, str(error.detail), code, headers=error.headers)

    app.add_exception_handler(SoftPromptError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _first_of(error: RequestValidationError) -> tuple[str, str]:
    """The field that is wrong first, empty for the whole body, and what is wrong with it."""
    first: Mapping[str, Any] = next(iter(error.errors()), {})
    parts = [part for part in first.get("loc", ()) if part != "body"]
    # Behind the name of such a field stands one of its forms.
    for number, part in enumerate(parts[:-1], 1):
        if part in FORMS:
            return ".".join(map(str, parts[:number])), f"give {FORMS[part]}"
    # Not the input of the error, which holds what was sent.
    return ".".join(map(str, parts)), str(first.get("msg", "cannot be read"))
