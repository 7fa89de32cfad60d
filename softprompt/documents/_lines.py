"""The lines of a record that only grows: one JSON object each, which ends in the checksum of what stands before it."""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

NAME = "crc32"
_END = re.compile(rb', "crc32": "([0-9a-f]{8})"\}')
_LENGTH = len(b', "crc32": "01234567"}')
# `json.loads` looks for the encoding of each line anew, which takes as long as reading it.
_DECODER = json.JSONDecoder()


def line_bytes(values: Mapping[str, Any]) -> bytes:
    """The line of these values, its end included.

    CRC-32 finds every change within 32 neighbouring bits, and of larger ones all but one in four billion.
    """
    body = json.dumps(values).encode()
    return body[:-1] + b', "%s": "%08x"}\n' % (NAME.encode(), zlib.crc32(body))


def is_sealed_line(line: bytes) -> bool:
    """Whether a line ends as one with a checksum does."""
    return _END.fullmatch(line[-_LENGTH:]) is not None


def whole_lines(content: bytes) -> list[bytes | None]:
    """The lines of a record without a torn last one; None where one without checksum stands beside one that has it."""
    # Not splitlines(): a damaged byte may be another separator.
    lines = content.split(b"\n")[:-1]
    # Where one line has a checksum, all were written with one.
    sealed = any(map(is_sealed_line, lines))
    return [line if is_sealed_line(line) or not sealed else None for line in lines]


def line_places(numbers: Sequence[int]) -> str:
    """The numbers of lines as a message tells them."""
    return f"line {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} lines, the first of them {numbers[0]}"


def line_values(line: bytes) -> dict[str, Any] | None:
    """The values of a line without its checksum; None where it is not as it was written.

    A line without checksum is one of an earlier version, and is believed.
    """
    end = _END.fullmatch(line[-_LENGTH:])
    body = line[:-_LENGTH] + b"}" if end else line
    if end and zlib.crc32(body) != int(end[1], 16):
        return None
    try:
        values = _DECODER.decode(body.decode())
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and NAME not in values else None
