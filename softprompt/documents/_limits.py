"""How much work a file may ask for: bounds far above honest use, which the user can raise."""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import final

from ..errors import BadInput, UnknownName


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a file of unknown origin may ask for.

    Args:
        json_bytes: size of a JSON file that describes a run, a prompt or a result.
        prompt_length: positions of a prompt that is loaded.
        prompt_numbers: numbers in all tensors of such a prompt, those of its deeper layers too.
        labels: classes of a task in a stored prompt or run.
        template: characters of its template, and of its instruction.
        new_tokens: tokens of the longest answer that a stored prompt writes.
        rows: rows of a laboratory task.
        row_characters: characters of one column of a row of a user's file; a row with a longer one is bad.
    """

    json_bytes: int = 4 * 2**20
    prompt_length: int = 2_048
    prompt_numbers: int = 2**26
    labels: int = 10_000
    template: int = 20_000
    new_tokens: int = 4_096
    rows: int = 1_000_000
    row_characters: int = 1_000_000


_LIMITS: ContextVar[Limits] = ContextVar("limits", default=Limits())  # noqa: B039  (frozen)


def now() -> Limits:
    """The limits that hold here."""
    return _LIMITS.get()


@contextlib.contextmanager
def limits(**raised: int) -> Iterator[Limits]:
    """Raise the limits on stored files within a block: `with softprompt.limits(labels=200_000): ...`.

    Raises:
        UnknownName: a limit that does not exist; the message gives the nearest.
        BadInput: a limit that is no positive whole number.
    """
    token = _LIMITS.set(now())
    try:
        raise_limits(**raised)
        yield now()
    finally:
        _LIMITS.reset(token)


def raise_limits(**raised: int) -> None:
    """Let files ask for so much from here on, to the end of the block of `limits` around.

    Raises:
        UnknownName, BadInput: as `limits`.
    """
    known = [field.name for field in dataclasses.fields(Limits)]
    for name, most in raised.items():
        if name not in known:
            raise UnknownName("limit", name, known)
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise BadInput(f"the limit of {name} must be a positive whole number, not {most!r}")
    _LIMITS.set(dataclasses.replace(now(), **raised))


def limited(text: str) -> tuple[str, int]:
    """The name and the number of a limit as the command line gives it, `labels=200000`.

    Raises:
        BadInput: something else.
    """
    name, sign, number = text.partition("=")
    if not sign or not number.isascii() or not number.isdigit() or len(number) > 18:
        raise BadInput(f"--limit takes NAME=NUMBER, as labels=200000, not {text!r}")
    return name.replace("-", "_"), int(number)


def refuse_more(name: str, count: int, what: str) -> None:
    """Refuse a file that asks for more than the limit of this name.

    Args:
        name: a field of `Limits`.
        count: how much it asks for.
        what: who asks for what, up to the number: "the task in 'p' has 100000 labels".

    Raises:
        BadInput: with the limit and how to raise it.
    """
    most = getattr(now(), name)
    if count > most:
        raise BadInput(
            f"{what}, the limit is {most}; if that is meant: softprompt --limit {name}={count} COMMAND; in "
            f"Python, with softprompt.limits({name}={count})"
        )
