"""Atomic folders: written next to their place, checksummed, and then renamed into it, so that they are never partial.

The order makes this safe: a temporary folder in the same directory, each file written and flushed to the disk, the
manifest with the SHA-256 of every file last, the rename, and a flush of the directory. A reader believes no byte that
the manifest does not vouch for: safetensors alone loads a flipped bit without a word.
"""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..checks import refuse_exists
from ..documents import json_bytes, read_json
from ..errors import BadInput, DamagedFile, StorageFailure

MANIFEST = "manifest.json"
FORMAT = 1
# A writer of a prompt or a checkpoint is done in less, also on a slow disk.
ABANDONED_SECONDS = 600.0
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def write_folder(
    target: Path, contents: Mapping[str, bytes], *, what: str, replace: bool = False, manifest: bool = True
) -> Path:
    """Write a new folder with these files and their manifest. If that fails, nothing changes.

    Args:
        target: the new folder. An empty folder at this place is used.
        contents: the bytes of each file by its name.
        what: name of what is stored, for messages: "the prompt".
        replace: whether an existing folder that this function wrote is replaced. Otherwise it is refused.
        manifest: whether the manifest is written, which `read_folder` needs. Folders for other programs have none.

    Raises:
        BadInput: the folder exists.
        StorageFailure: the disk is full or not writable. What existed before stays intact.
    """
    target = _place_of(target)
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
    """Write a file atomically: next to its place, and then renamed into it.

    Raises:
        BadInput: the file exists and `replace` is False.
        StorageFailure: the disk is full or not writable. What existed before stays intact.
    """
    target = _place_of(target)
    if not replace:
        refuse_exists(target, what)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, content)
        os.replace(temporary, target)
        _sync(target.parent)
    except OSError as error:
        raise _failure(what, target, error) from error
    finally:
        # What could not be removed is swept later, and would hide why the file could not be written.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target


def refuse_no_place(target: Path, what: str) -> None:
    """Refuse a place that cannot be written, before the work whose result will be stored there.

    Args:
        target: the file or folder that will be created, or the folder that will be written into.
        what: name of what will be stored, for messages: "the landscape".

    Raises:
        StorageFailure: the nearest existing folder of the place cannot be written.
    """
    whole = _place_of(target)
    place = next((path for path in (whole, *whole.parents) if os.path.lexists(path)), target)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        reason = "cannot be written" if place.is_dir() else "is no folder"
        raise StorageFailure(
            f"{what} cannot be stored in {str(target)!r}: {str(place)!r} {reason}; choose another place"
        )


def read_folder(folder: Path, *, max_bytes: int | None = None) -> dict[str, Path]:
    """Check each file of a folder against the manifest and return the paths by file name.

    Files that the manifest does not list are ignored.

    Args:
        folder: a folder that `write_folder` wrote.
        max_bytes: largest size of a file. A larger file is refused before it is read. None sets no bound.

    Raises:
        DamagedFile: a file is missing, truncated, changed, or not a regular file; the message names it.
        BadInput: a file is larger than `max_bytes`, or a newer version wrote the folder.
    """
    folder = settled(folder)
    entries = _listed(folder)
    for name, entry in entries.items():
        _verify(folder / name, entry, max_bytes)
    return {name: folder / name for name in entries}


def settled(folder: Path) -> Path:
    """Return the folder, or its previous version if a replacement was killed between its two renames."""
    replaced = _replaced(folder)
    return replaced if not folder.is_dir() and replaced.is_dir() else folder


def remove_leftovers(parent: Path, pattern: str) -> None:
    """Remove what killed writers left next to folders that match, and previous versions that were replaced."""
    for temporary in parent.glob(f".{pattern}.????????.tmp"):
        if is_abandoned(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
    for replaced in parent.glob(f".{pattern}.old"):
        if (parent / replaced.name[1 : -len(".old")]).is_dir():
            shutil.rmtree(replaced, ignore_errors=True)


def is_abandoned(temporary: Path) -> bool:
    """Whether nothing was written into a temporary folder for so long that its writer must be dead."""
    try:
        newest = max(path.stat().st_mtime for path in (temporary, *temporary.iterdir()))
    except OSError:
        # Its writer has just put it in its place.
        return False
    return time.time() - newest > ABANDONED_SECONDS


def _place_of(target: Path) -> Path:
    """The whole path of a place.

    Raises:
        BadInput: it begins with `~`, which would be a folder of this name here.
    """
    if target.parts[:1] == ("~",):
        raise BadInput(f"{str(target)!r} begins with ~, which only a shell replaces; write the whole path")
    return target.absolute()


def _replaced(target: Path) -> Path:
    return target.parent / f".{target.name}.old"


def _check_place(target: Path, names: Iterable[str], what: str, replace: bool) -> None:
    if not replace:
        return refuse_exists(target, what, empty_folder=True)
    # A damaged folder of ours may lack its manifest, but it holds no other file names.
    is_ours = target.is_dir() and {entry.name for entry in target.iterdir()} <= {MANIFEST, *names}
    if os.path.lexists(target) and not is_ours:
        raise BadInput(f"{str(target)!r} is not a folder of ours to replace; choose another place for {what}")


def _put_in_place(temporary: Path, target: Path, replace: bool) -> None:
    """Rename the temporary folder to its place.

    An existing folder is first moved to a name that `settled` knows. If the rename fails, it is moved back.
    """
    replaced = _replaced(target)
    # Without `replace`, a folder that has appeared since the check is another writer's, and the rename below fails.
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
    """Flush the file names of a folder to the disk."""
    if os.name == "nt":  # Windows cannot open a folder, and flushes names itself.
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
    """Return the manifest's entries by file name.

    The manifest has to equal what this module writes in every byte, because a truncated file may still be valid JSON.
    """
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
    """Return the status of a regular file, without following links."""
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
        raise BadInput(
            f"{str(path)!r} has {size} bytes, a prompt has at most {max_bytes}; check where it comes from, "
            "or raise the limit prompt_numbers (softprompt --limit prompt_numbers=NUMBER COMMAND)"
        )
    if size != entry["bytes"]:
        raise DamagedFile(f"{str(path)!r} has {size} bytes, {entry['bytes']} were written; restore it from a copy")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedFile(f"{str(path)!r} cannot be read ({error.strerror}); restore it from a copy") from error
    if digest != entry["sha256"]:
        raise DamagedFile(f"{str(path)!r} is not what was written (SHA-256 differs); restore it from a copy")
