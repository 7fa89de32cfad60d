"""What vouches for another file: its size and its SHA-256, as manifests and results list them."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from ..errors import DamagedFile, SoftPromptError

# Bytes that file systems take.
LONGEST_NAME = 255


def entry(content: bytes) -> dict[str, Any]:
    """What is listed of a file with this content."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def listed_in(document: Mapping[str, Any], path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The entries of the files that a document vouches for, by their paths from its folder.

    Raises:
        DamagedFile: what is listed is no entry, or leads out of the folder.
    """
    files = document.get("files", {})
    if not isinstance(files, Mapping) or not all(_is_entry(name, listed) for name, listed in files.items()):
        raise DamagedFile(f"{str(path)!r} lists what is no file of its folder; do not trust this folder")
    return files


def _is_entry(name: str, listed: Any) -> bool:
    if not isinstance(listed, Mapping) or set(listed) != {"bytes", "sha256"}:
        return False
    is_below = not PurePath(name).is_absolute() and ".." not in PurePath(name).parts and "\0" not in name
    return is_below and type(listed["bytes"]) is int and isinstance(listed["sha256"], str)


def refuse_no_name(name: str) -> None:
    """Refuse the name of a prompt that can be no folder of its run.

    Raises:
        DamagedFile: it leads elsewhere, or is too long.
    """
    if name in ("", ".", "..") or set(name) & {"/", "\0"} or len(name.encode()) > LONGEST_NAME:
        raise DamagedFile(f"the name of a prompt leads out of the run, or is too long: {name[:40]!r}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(path: Path, listed: Mapping[str, Any]) -> str:
    """How a file differs from its entry, to follow its name in a message; empty where it does not.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size != listed["bytes"]:
        return f"has {size} bytes, {listed['bytes']} were written"
    return "" if sha256_of(path) == listed["sha256"] else "is not what was written (SHA-256 differs)"


def changed_files(read: Callable[[], Mapping[str, Any]], path: Path, repair: str) -> Iterator[str]:
    """One line for each file that is not what a document beside it lists, or for the document if it cannot be read.

    Args:
        read: reads the document.
        path: of the document.
        repair: what a user does about a file that differs.
    """
    try:
        listed = listed_in(read(), path)
    except SoftPromptError as error:
        yield error.message
        return
    for name, known in listed.items():
        try:
            fault = difference(path.parent / name, known)
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        if fault:
            yield f"{str(path.parent / name)!r} {fault}; {repair}"


def faults_in(read: Callable[[], object]) -> Iterator[str]:
    """The message of a reader that finds damage; nothing where it finds none."""
    try:
        read()
    except SoftPromptError as error:
        yield error.message
