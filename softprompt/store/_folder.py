"""Folders that exist whole or not at all: written beside their place, checksummed, then renamed into it.

The order is what makes it safe: temporary folder in the same directory, each file written and flushed to the
disk, the manifest with every file's SHA-256 last, rename, flush of the directory. A reader believes no byte
that the manifest does not vouch for: safetensors alone loads a flipped bit without a word.
"""

import glob
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput, DamagedFile, StorageFailure
from ._values import json_bytes, read_json

MANIFEST = "manifest.json"
FORMAT = 1
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def write_folder(
    target: Path, contents: Mapping[str, bytes], *, what: str, replace: bool = False, manifest: bool = True
) -> Path:
    """A new folder holding these files and their manifest, or no change at all.

    Args:
        target: where it shall be; an empty folder there is taken.
        contents: bytes by file name.
        what: what is being stored, for messages: "the prompt".
        replace: exchange a folder written by this function; otherwise one that exists is refused.
        manifest: write the one that `read_folder` believes; without it the folder is for other programs.

    Raises:
        BadInput: the folder exists.
        StorageFailure: the disk is full or not writable; what was there before still is.
    """
    target = target.absolute()
    _check_place(target, contents, what, replace)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, glob.escape(target.name))
        temporary.mkdir()
        for name, content in contents.items():
            _write(temporary / name, content)
        if manifest:
            _write(temporary / MANIFEST, _manifest(contents))
        _sync(temporary)
        _put_in_place(temporary, target, replace)
    except OSError as error:
        raise _failure(what, target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def write_file(target: Path, content: bytes, *, what: str, replace: bool = False) -> Path:
    """One file, whole or not at all: written beside its place and renamed into it.

    Raises:
        BadInput: the file exists and shall not be replaced.
        StorageFailure: the disk is full or not writable; what was there before still is.
    """
    target = target.absolute()
    if target.exists() and not replace:
        raise BadInput(f"{str(target)!r} exists already; remove it or choose another place for {what}")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, content)
        os.replace(temporary, target)
        _sync(target.parent)
    except OSError as error:
        raise _failure(what, target, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def refuse_no_place(target: Path, what: str) -> None:
    """Refuse a place that cannot be written, before the work whose outcome is to be stored there.

    Args:
        target: the file or folder to be made, or the folder to write into.
        what: what is to be stored, for messages: "the landscape".

    Raises:
        StorageFailure: its folder, or the nearest above it that exists, cannot be written.
    """
    place = next((path for path in (target.absolute(), *target.absolute().parents) if os.path.lexists(path)), target)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        reason = "cannot be written" if place.is_dir() else "is no folder"
        raise StorageFailure(
            f"{what} cannot be stored in {str(target)!r}: {str(place)!r} {reason}; choose another place"
        )


def read_folder(folder: Path, *, max_bytes: int | None = None) -> dict[str, Path]:
    """The files of a folder, each checked against the manifest; files that it does not list are ignored.

    Args:
        folder: as given to `write_folder`.
        max_bytes: largest file, refused before it is read; None is no bound.

    Raises:
        DamagedFile: a file is missing, cut short, changed, or not a plain file; names it.
        BadInput: a file is larger than `max_bytes`, or the folder is of a newer version.
    """
    folder = settled(folder)
    listed = _listed(folder)
    for name, entry in listed.items():
        _verify(folder / name, entry, max_bytes)
    return {name: folder / name for name in listed}


def settled(folder: Path) -> Path:
    """The folder, or what it was before an exchange that was killed between its two renames."""
    replaced = _replaced(folder)
    return replaced if not folder.is_dir() and replaced.is_dir() else folder


def remove_leftovers(parent: Path, pattern: str) -> None:
    """Remove what killed writers left beside folders that match; what was replaced, once replaced."""
    for temporary in parent.glob(f".{pattern}.????????.tmp"):
        shutil.rmtree(temporary, ignore_errors=True)
    for replaced in parent.glob(f".{pattern}.old"):
        if (parent / replaced.name[1 : -len(".old")]).is_dir():
            shutil.rmtree(replaced, ignore_errors=True)


def _replaced(target: Path) -> Path:
    return target.parent / f".{target.name}.old"


def _check_place(target: Path, names: Iterable[str], what: str, replace: bool) -> None:
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not replace:
        raise BadInput(f"{str(target)!r} exists already; remove it or choose another place for {what}")
    # A damaged folder of ours may have lost its manifest; it still holds nothing but our names.
    if not target.is_dir() or not {entry.name for entry in target.iterdir()} <= {MANIFEST, *names}:
        raise BadInput(f"{str(target)!r} is not a folder of ours to replace; choose another place for {what}")


def _put_in_place(temporary: Path, target: Path, replace: bool) -> None:
    """Rename; a folder in the way steps aside to a name that `settled` knows, and comes back on failure."""
    replaced = _replaced(target)
    # Without `replace`, a folder that appeared meanwhile is another writer's: the rename below shall fail.
    if replace and target.is_dir() and any(target.iterdir()):
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(target, replaced)
    try:
        os.rename(temporary, target)
        _sync(target.parent)
    except OSError:
        if not temporary.exists():
            os.rename(target, temporary)
        if replaced.exists():
            os.rename(replaced, target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    if os.name == "nt":  # Windows cannot open a folder, and keeps names by itself.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(what: str, target: Path, error: OSError) -> StorageFailure:
    return StorageFailure(
        f"could not write {what} to {str(target)!r}: {error.strerror or error}; "
        "what was stored before is intact; free some space or choose a place that can be written"
    )


def _manifest(contents: Mapping[str, bytes]) -> bytes:
    files = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()}
    return json_bytes({"format": FORMAT, "files": files})


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entries by file name, if it is as we write it to the last byte: a cut may leave whole JSON."""
    path = folder / MANIFEST
    _plain_file(path)
    values = read_json(path)
    damaged = DamagedFile(f"{str(path)!r} is not as it was written; restore it from a copy")
    try:
        if path.read_bytes() != json_bytes(values):
            raise damaged
    except (OSError, UnicodeError) as error:
        raise damaged from error
    if values.get("format") != FORMAT:
        raise BadInput(
            f"{str(path)!r} is of format {values.get('format')!r}, this softprompt reads {FORMAT}; upgrade it"
        )
    files = values.get("files")
    if not isinstance(files, dict):
        raise damaged
    for name, entry in files.items():
        if not FILE_NAME.fullmatch(name):
            raise DamagedFile(f"{str(path)!r} lists {name!r}, which is no plain file name; do not trust this folder")
        if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
            raise damaged
    return files


def _plain_file(path: Path) -> os.stat_result:
    """The file's status, links not followed."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise DamagedFile(f"{str(path)!r} is missing; restore the folder from a copy") from error
    if not stat.S_ISREG(status.st_mode):
        raise DamagedFile(f"{str(path)!r} is a link or another special file; put the file itself there")
    return status


def _verify(path: Path, entry: Mapping[str, Any], max_bytes: int | None) -> None:
    size = _plain_file(path).st_size
    if max_bytes is not None and size > max_bytes:
        raise BadInput(f"{str(path)!r} has {size} bytes, a prompt has at most {max_bytes}; check where it comes from")
    if size != entry["bytes"]:
        raise DamagedFile(f"{str(path)!r} has {size} bytes, {entry['bytes']} were written; restore it from a copy")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedFile(f"{str(path)!r} cannot be read ({error.strerror}); restore it from a copy") from error
    if digest != entry["sha256"]:
        raise DamagedFile(f"{str(path)!r} is not what was written (SHA-256 differs); restore it from a copy")
