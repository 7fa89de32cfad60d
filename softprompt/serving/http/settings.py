"""How a server behaves towards its clients."""

import ipaddress
from dataclasses import dataclass
from typing import final

from ...checks import require_numbers
from ...errors import BadInput

# A name in an Authorization header is compared as bytes, so it has to be ASCII.
SHORTEST_KEY = 16


@final
@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Who may ask what, and how much.

    Args:
        model_name: the first part of the models' names, "base" in "base:prompt".
        keys: API keys, of which a request has to bring one; none leaves the server open.
        admin_token: what changes of prompts have to bring; None allows no changes.
        body_bytes: longest body of a request.
        body_timeout: seconds in which a client has to send its request.
        send_timeout: seconds in which a client has to take each part of an answer.
        max_inputs: texts of one request.
        max_new_tokens: longest answer that a request may ask for.
        hosts: names by which the server may be called; none allows every name.

    Raises:
        BadInput: a key that is too short to be one, or a limit that is no positive number.
    """

    model_name: str
    keys: tuple[str, ...] = ()
    admin_token: str | None = None
    body_bytes: int = 2**20
    body_timeout: float = 15.0
    send_timeout: float = 15.0
    max_inputs: int = 256
    max_new_tokens: int = 1024
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse settings under which the server would be open or useless."""
        for secret in (*self.keys, *([] if self.admin_token is None else [self.admin_token])):
            if len(secret) < SHORTEST_KEY or not secret.isascii() or not secret.isprintable() or " " in secret:
                raise BadInput(
                    f"a key or token needs {SHORTEST_KEY} or more ASCII characters without blanks, this one has "
                    f"{len(secret)}; make one with `openssl rand -hex 24`"
                )
        whole = ("body_bytes", "max_inputs", "max_new_tokens")
        require_numbers({name: getattr(self, name) for name in whole}, whole=True)
        require_numbers({"body_timeout": self.body_timeout, "send_timeout": self.send_timeout})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_for(host: str) -> tuple[str, ...]:
    """The names by which a server at this address may be called.

    On loopback a page of another site could lead its own name here (DNS rebinding), so only ours are taken.
    """
    return ("localhost", "127.0.0.1", "::1", "[::1]", host) if is_loopback(host) else ()
