"""Bits turned and ends cut in every file of runs, prompts, searches, stores and banks: is each change named?"""

import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from softprompt.cli._doctor import damage_of
from softprompt.errors import SoftPromptError
from softprompt.store import read_folder
from softprompt.training import last_good, read_plan

Reader = Callable[[Path], None]


class Told(logging.Handler):
    """What the library said while it read."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Within the block, the list grows by each line of the library."""
    log, handler = logging.getLogger("softprompt"), Told()
    log.addHandler(handler)
    try:
        yield handler.lines
    finally:
        log.removeHandler(handler)


def read_run(folder: Path) -> None:
    """Everything of a run, as `resume`, `show` and `doctor` read it."""
    read_plan(folder)
    read_any(folder)
    last_good(folder)


def read_any(folder: Path) -> None:
    """A run, a search, a store, a bank, or a folder of a prompt, of weights, of an export: as `doctor` reads it."""
    for line in damage_of(folder):
        logging.getLogger("softprompt").warning(line)


def read_files(folder: Path) -> None:
    """The files of an export that `doctor` does not know."""
    read_folder(folder)


def damaged(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """The content with one bit turned, its end cut off, or a piece cut out; and which of these."""
    kind = draw.choice(("flip", "flip", "end", "piece"))
    place = draw.randrange(len(content))
    if kind == "flip":
        return kind, content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    if kind == "end":
        return kind, content[:place]
    return kind, content[:place] + content[place + draw.randint(1, 64) :]


def files_of(folder: Path) -> list[Path]:
    """The files that hold anything; the mark of a process is none of them."""
    if folder.is_file():
        return [folder]
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return sorted(path for path in paths if path.stat().st_size)


def outcome(read: Reader, folder: Path, path: Path) -> str:
    """Whether a reader named the damaged file: "named", "fallback", "silent", or "traceback: ..."."""
    with listening() as lines:
        try:
            read(folder)
        except SoftPromptError as error:
            lines.append(error.message)
        except Exception as error:  # Whatever it is, a user would see a traceback.
            return f"traceback: {type(error).__name__}: {error}"
    if any("is not used" in line for line in lines):
        return "fallback"
    # A checkpoint is named by its folder, a fleet by its file.
    return "named" if any(path.name in line or path.parent.name in line for line in lines) else "silent"


def campaign(
    places: Mapping[Path, Reader], count: int, seed: int, stays: Callable[[bytes, bytes], bool] = lambda *_: False
) -> tuple[Counter[str], list[str]]:
    """So many changes, drawn over all files of some folders; what came of them, and those that no reader named.

    Args:
        places: what reads a folder or a file, by its path.
        count: of changes.
        seed: of the draw.
        stays: whether a reader that says nothing left a file from which the same is computed; it sees the content that
            was written, and what the file holds after it was read.
    """
    draw, found, bad = random.Random(seed), Counter[str](), []
    files = [(read, folder, path) for folder, read in places.items() for path in files_of(folder)]
    for number in range(count):
        read, folder, path = files[number % len(files)]
        content = path.read_bytes()
        kind, changed = damaged(content, draw)
        if changed == content:
            continue
        path.write_bytes(changed)
        try:
            what = outcome(read, folder, path)
            if what == "silent" and (is_torn_end(path, content, changed) or stays(content, path.read_bytes())):
                what = "torn end, as after a kill"
        finally:
            path.write_bytes(content)
        found[what.partition(":")[0]] += 1
        if what == "silent" or what.startswith("traceback"):
            bad.append(f"{path.relative_to(folder)}: {kind} of {len(content)} -> {len(changed)} bytes: {what}")
    return found, bad


def is_torn_end(path: Path, content: bytes, changed: bytes) -> bool:
    """Whether the change is what a killed process leaves: a record whose last line has no end."""
    whole = content.rstrip(b"\n").rpartition(b"\n")[0]
    return path.suffix == ".jsonl" and changed.startswith(whole) and b"\n" not in changed[len(whole) + 1 :]
