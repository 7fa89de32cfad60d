"""Files that a stranger made: true checksums over values that no program of ours would write."""

import collections
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.documents import json_bytes, sealed_bytes
from softprompt.errors import SoftPromptError

# Seconds and MiB that reading one file may take.
MOST_SECONDS, MOST_MIB = 2.0, 200
# What is nested deeper is not changed further.
DEEPEST = 12
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 20_000, 10**12, 2**63, 10**400, -(10**30), 0.5, -0.5, 1e308, 1e-320,
    "", "x", "\x1b[2J\x1b]0;title\x07", "\u202eabc", "{", "{a}", "{a!r:>1000000000}", "{mask}{mask}",
    "../../etc/passwd", "é" * 300, "x" * 30_000, "\ud800", "\0", [], [[]], [None], ["a", "a"], [1, "a"], {}, {"": {}},
    list(range(300)), {str(n): n for n in range(300)},
)  # fmt: skip


# What the readers of texts, arrays and tables stumble over.
PIECES = (
    b"\0", b"\xff\xfe", b"\n", b"\r", b'"', b"{", b"}", b"[", b"[" * 3000, b"]", b"(", b",", b"'", b"\\u0000",
    b"\xed\xa0\x80",
    b"nan", b"NaN", b"-1", b"1e999", b"9" * 400, b"<f8", b"|O8", b"F64", b"U128", b"9223372036854775808", b"\x1b[2J",
    b'"a": 1, "a": 2', b"=", b"#", b"true", b"null", b"None", b"x" * 10_000,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every value inside a document."""
    if len(path) > DEEPEST:
        return
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


@dataclass(frozen=True)
class Case:
    """A kind of file.

    Args:
        good: what an honest file of this kind holds: a document, or bytes.
        read: puts a changed one in its place, under checksums that fit, and reads it.
    """

    good: Any
    read: Callable[[Any], object]

    def hostile(self, draw: random.Random) -> Any:
        """A changed one."""
        return mangled(self.good, draw) if isinstance(self.good, bytes) else changed(self.good, draw)


def mangled(content: bytes, draw: random.Random) -> bytes:
    """Bytes of which one to four pieces are turned, cut out, doubled, or written over by numbers that are extreme."""
    changing = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        # The head of a file says what the rest is.
        place = draw.randrange(min(len(changing), draw.choice((16, 256, len(changing)))) + 1) if changing else 0
        piece = changing[place : place + draw.choice((1, 4, 32))]
        match draw.randrange(5):
            case 0:
                changing[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                del changing[place : place + len(piece)]
            case 2:
                changing[place:place] = piece * draw.choice((1, 3, 100))
            case 3:
                changing[place : place + len(piece)] = draw.choice(PIECES)
            case _:
                number = draw.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
                changing[place : place + 8] = number.to_bytes(8, "little")
    return bytes(changing)


def changed(document: Any, draw: random.Random, others: tuple[Any, ...] = VALUES) -> Any:
    """A document with one to three of its values exchanged, removed, renamed or nested."""
    document = copied(document)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        ways = list(places(document))
        if not ways:
            break
        *way, last = draw.choice(ways)
        place: Any = document
        for key in way:
            place = place[key]
        match draw.randrange(6):
            case 0:
                del place[last]
            case 1 if isinstance(place, dict):
                place[draw.choice(("name", "files", "format", "x", "\x1b[1m"))] = place.pop(last)
            case 2:
                nested: Any = place[last]
                for _ in range(draw.choice((1, 3, 60, 500))):
                    nested = [nested]
                place[last] = nested
            case _:
                place[last] = copied(draw.choice(others))
    return document


def copied(value: Any) -> Any:
    """Plain values once more; several times as fast as `copy.deepcopy`."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return list(map(copied, value)) if isinstance(value, list) else value


def as_bytes(document: Any) -> bytes:
    """JSON of values that `json_bytes` does not write: halves of characters and deep nesting."""
    try:
        return json_bytes(document, allow_nan=True)
    except (UnicodeEncodeError, RecursionError):
        pass
    try:
        return json.dumps(document).encode()
    except RecursionError:
        return b'{"deep": ' + b"[" * 5000 + b"]" * 5000 + b"}"


def sealed(document: dict[str, Any]) -> bytes:
    """The same under a checksum, as far as one can be made."""
    try:
        return sealed_bytes(document)
    except (UnicodeEncodeError, RecursionError):
        return as_bytes(document)


def forged(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder with a manifest that vouches for these files."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = {name: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for name, body in files.items()}
    for name, body in {**files, "manifest.json": json_bytes({"format": 1, "files": listed})}.items():
        (folder / name).write_bytes(body)
    return folder


def judged(read: Callable[[], object]) -> str:
    """What came of reading a hostile file: "read", "refused", "slow", "raw" (what a terminal obeys), or a traceback."""
    start, before = time.process_time(), peak_mib(fresh=True)
    try:
        found = read()
        # A reader that yields has not begun to read.
        collections.deque(found if isinstance(found, Iterator) else (), maxlen=0)
        what = "read"
    except SoftPromptError as error:
        is_plain = len(error.message) <= 2000 and all(character.isprintable() for character in error.message)
        what = "refused" if is_plain else f"raw: {error.message[:300]!r}"
    except Exception as error:  # Whatever it is, a user would see a traceback.
        what = f"traceback: {type(error).__name__}: {str(error)[:300]}"
    seconds, mib = time.process_time() - start, peak_mib() - before
    if mib > MOST_MIB:
        return f"large: {mib:.0f} MiB, {what}"
    return what if seconds < MOST_SECONDS else f"slow: {seconds:.1f} s, {what}"


def peak_mib(fresh: bool = False) -> float:
    """The most memory of this process in MiB, from here on if `fresh`; 0 where the system does not say."""
    try:
        if fresh:
            Path("/proc/self/clear_refs").write_bytes(b"5")
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return 0.0


def campaign(cases: Mapping[str, Case], count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """So many hostile files, each kind in turn; what came of them, and the bad ones.

    Args:
        cases: by a name.
        count: of files.
        seed: of the draw.
    """
    draw, found, bad = random.Random(seed), Counter[str](), []
    names = sorted(cases)
    for number in range(count):
        name = names[number % len(names)]
        case = cases[name]
        hostile = case.hostile(draw)
        what = judged(lambda case=case, hostile=hostile: case.read(hostile))
        found[what.partition(":")[0]] += 1
        if what not in ("read", "refused"):
            bad.append(f"{name}: {what}: {str(hostile)[:200]!r}")
    return found, bad
