"""The server as a process: it listens, logs, and ends when it is told to."""

import contextlib
import logging
import socket
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn

from ...errors import BadInput
from .connections import TimedConnection
from .service import Service

log = logging.getLogger("softprompt.serving")
# Seconds after which the thread of the model lets that of the connections run. It is 5 ms by default, which every read
# and write of every connection would wait for.
SWITCH = 0.0005
# Open at a time; more are refused with 503.
CONNECTIONS = 2048


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Within, the server's log goes to standard error as it is: one JSON object a request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.propagate, log.level = False, logging.INFO
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate, log.level = True, logging.NOTSET


def listen(host: str, port: int) -> socket.socket:
    """A socket at this address; port 0 is any that is free.

    Raises:
        BadInput: the address is taken, or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol, or asyncio does not switch off the delay of small packets: 40 ms of each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BadInput(f"cannot listen at {host}:{port} ({error.strerror or error}); choose another --port") from error
    return listener


class Server(uvicorn.Server):
    """Takes nothing more as soon as it is told to end, while connections are still open."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self.service = service

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to end."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        try:
            await super().serve(sockets)
        finally:
            sys.setswitchinterval(before)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal to end."""
        self.service.batcher.draining = True
        super().handle_exit(sig, frame)


def server_of(app: Any, service: Service, *, drain: float = 30.0) -> Server:
    """The server of an app; `run(sockets=[listener])` serves until SIGTERM or Ctrl-C.

    Args:
        app: of `build_app`.
        service: that it serves.
        drain: seconds in which what was taken is answered.
    """
    config = uvicorn.Config(
        app,
        http=partial(TimedConnection, seconds=service.settings.body_timeout),  # pyright: ignore[reportArgumentType]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=int(drain) + 1,
        h11_max_incomplete_event_size=16 * 1024,
    )
    return Server(config, service)
