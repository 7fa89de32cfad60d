"""The checksum inside a document: over every byte of the file, so that no change of it goes unseen.

A sealed document has the SHA-256 of its other values, as they are written without it, under the name `sha256`. A reader
writes the values again and compares all bytes: a changed blank, a cut at the end or a name that is there twice is
named as a changed number is. The seal finds damage; it does not say who wrote the file.

One cut can take both the checksum and the format away. So a file without a checksum passes for one of an earlier
version only where there were such files, and only with the names that these had.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import DamagedFile
from ._json import compact, json_bytes
from ._read import RESTORE, parsed, plain_bytes

SEAL = "sha256"
# The format of documents that had none before they had a checksum: a file that says so needs one.
SEALED = 2


def digest(values: Any) -> str:
    """SHA-256 of plain values, independent of the order of their names."""
    return hashlib.sha256(compact(values)).hexdigest()


def sealed_bytes(values: Mapping[str, Any]) -> bytes:
    """A document of these values under its checksum."""
    return json_bytes({**values, SEAL: hashlib.sha256(json_bytes(values)).hexdigest()})


def is_sealed(path: Path) -> bool:
    """Whether a document has a checksum; those of earlier versions have none."""
    return SEAL in parsed(plain_bytes(path), path)


def read_sealed(
    path: Path, *, earlier_names: Collection[str] | None = None, sealed_from: int = SEALED, repair: str = RESTORE
) -> dict[str, Any]:
    """The values of a document, without its checksum.

    Args:
        path: the file.
        earlier_names: names in every document of this kind that was written before such documents had a checksum. Name
            those that are sorted between "format" and "sha256", because a cut through both takes these too. None where
            every document of this kind has a checksum.
        sealed_from: the first format that has a checksum: a file that says it is of this format and has no checksum was
            changed.
        repair: what a user does about a damaged file.

    Raises:
        BadInput: it cannot be read.
        DamagedFile: it is not as it was written.
    """
    content = plain_bytes(path)
    values = parsed(content, path, repair)
    seal, number = values.pop(SEAL, None), values.get("format")
    is_whole = seal is not None and content == sealed_bytes(values)
    has_names = earlier_names is not None and all(name in values for name in earlier_names)
    is_earlier = seal is None and has_names and (not isinstance(number, int) or number < sealed_from)
    if not (is_whole or is_earlier):
        raise DamagedFile(f"{str(path)!r} is not as it was written (its checksum differs); {repair}")
    return values
