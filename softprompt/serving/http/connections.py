"""Connections of clients that send nothing, or a byte now and then: they are closed before they fill the server."""

import asyncio
from typing import Any, final

from uvicorn.protocols.http.h11_impl import H11Protocol


@final
class TimedConnection(H11Protocol):
    """A connection that is closed where no whole header of a request arrives in time.

    Uvicorn waits for it without end, so that as many idle connections as the server may have would lock everybody out.
    What comes behind the header has a clock of its own (`Guard`), and so has a connection that waits for its next
    request.

    Args:
        seconds: from the opening, or from the first byte of a later request, to the end of the header.
        options: of uvicorn.
    """

    def __init__(self, *, seconds: float, **options: Any):
        super().__init__(**options)
        self._seconds = seconds
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock of the first request."""
        super().connection_made(transport)
        self._set()

    def data_received(self, data: bytes) -> None:
        """Read what came; the clock stops with the end of a header."""
        super().data_received(data)
        self._set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        self._stop()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _set(self) -> None:
        if self._is_answering or self.transport.is_closing():
            self._stop()
        elif self._clock is None:
            self._clock = self.loop.call_later(self._seconds, self._end)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _end(self) -> None:
        self._clock = None
        if not self._is_answering:
            self.transport.close()
