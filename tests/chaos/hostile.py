"""Files that a stranger made: true checksums over values that no program of ours would write."""

import copy
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
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


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every value inside a document."""
    if len(path) > DEEPEST:
        return
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(document: dict[str, Any], draw: random.Random, others: tuple[Any, ...] = VALUES) -> dict[str, Any]:
    """A document with one to three of its values exchanged, removed, renamed or nested."""
    document = copy.deepcopy(document)
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
                place[last] = copy.deepcopy(draw.choice(others))
    return document


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
    start = time.process_time()
    try:
        read()
        what = "read"
    except SoftPromptError as error:
        is_plain = len(error.message) <= 2000 and all(character.isprintable() for character in error.message)
        what = "refused" if is_plain else f"raw: {error.message[:300]!r}"
    except Exception as error:  # Whatever it is, a user would see a traceback.
        what = f"traceback: {type(error).__name__}: {str(error)[:300]}"
    return what if time.process_time() - start < MOST_SECONDS else f"slow: {time.process_time() - start:.1f} s, {what}"


def campaign(cases: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], object]]], count: int, seed: int):
    """So many hostile documents, each kind in turn; what came of them, and the bad ones.

    Args:
        cases: by a name, a good document and what reads a changed one.
        count: of documents.
        seed: of the draw.
    """
    draw, found, bad = random.Random(seed), Counter[str](), []
    names = sorted(cases)
    for number in range(count):
        name = names[number % len(names)]
        document, read = cases[name]
        hostile = changed(document, draw)
        what = judged(lambda read=read, hostile=hostile: read(hostile))
        found[what.partition(":")[0]] += 1
        if what not in ("read", "refused"):
            bad.append(f"{name}: {what}: {str(hostile)[:200]!r}")
    return found, bad
