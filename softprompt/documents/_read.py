"""Read a JSON file that may come from a stranger: bounded in size and depth, and with one meaning only."""

import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import BadInput, DamagedFile
from ._limits import refuse_more

# Ours are nested 8 deep at most.
DEEPEST = 40
RESTORE = "restore it from a copy"


class Repeated(ValueError):
    """An object that has a name twice: readers would disagree about which value counts."""


def plain_bytes(path: Path, *, max_bytes: int | None = 0) -> bytes:
    """The content of a regular file; a pipe would wait for ever, and a sparse file may claim terabytes.

    Args:
        path: of the file; a link to a file is followed.
        max_bytes: the most that it may have; 0 stands for the limit `json_bytes`, None sets no bound.

    Raises:
        BadInput: it cannot be read, is no regular file, or is larger than the limit.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{str(path)!r} is a folder, a pipe or another special file; put the file itself there")
        if max_bytes == 0:
            refuse_more("json_bytes", status.st_size, f"{str(path)!r} has {status.st_size} bytes, too large to be ours")
        elif max_bytes is not None and status.st_size > max_bytes:
            raise BadInput(f"{str(path)!r} has {status.st_size} bytes, at most {max_bytes} are read; check its origin")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot read {str(path)!r}: {reason}; check the path and its permissions") from error


def read_json(path: Path, *, max_bytes: int | None = 0) -> dict[str, Any]:
    """The JSON object in a file; `max_bytes` as in `plain_bytes`.

    Raises:
        BadInput: the file cannot be read, or it is larger than the limit.
        DamagedFile: the file does not hold a JSON object that one of ours could be.
    """
    return parsed(plain_bytes(path, max_bytes=max_bytes), path)


def parsed(content: bytes, path: "Path | str", repair: str = RESTORE) -> dict[str, Any]:
    """The JSON object in these bytes.

    Args:
        content: UTF-8.
        path: where they come from, for messages.
        repair: what a user does about a damaged file.

    Raises:
        DamagedFile: no object, one with a name twice, deeper than any of ours, or text that is no Unicode.
    """
    try:
        values = json.loads(content.decode(), object_pairs_hook=once)
    except Repeated as error:
        raise DamagedFile(f"{str(path)!r} has {error} twice; {repair}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{str(path)!r} is not JSON; {repair}") from error
    if not isinstance(values, dict):
        raise DamagedFile(f"{str(path)!r} holds no JSON object; {repair}")
    if reason := _odd(values):
        raise DamagedFile(f"{str(path)!r} holds {reason}; {repair}")
    return values


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON in which each name stands once.

    Raises:
        Repeated: a name that stands more than once.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        raise Repeated(repr(Counter(name for name, _ in pairs).most_common(1)[0][0]))
    return values


def _odd(values: Any) -> str:
    """What none of our files holds, in words; empty where all is well."""
    level = [values]
    for _ in range(DEEPEST):
        if any(type(value) is int and abs(value) >= 2**1024 for value in level):
            return "a number larger than any float"
        texts = [text for value in level for text in _texts(value)]
        if any(not text.isascii() and _is_no_unicode(text) for text in texts):
            return "half a character (a lone surrogate)"
        level = [inner for value in level for inner in _inner(value)]
        if not level:
            return ""
    return f"values nested more than {DEEPEST} deep"


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return list(value)
    return [value] if isinstance(value, str) else []


def _is_no_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
