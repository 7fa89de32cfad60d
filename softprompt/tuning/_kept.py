"""Parts of a search on disk: each is computed once, and stands under a checksum."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ..documents import SEALED, plain_bytes
from ..errors import DamagedFile
from ..store import json_bytes, read_sealed, sealed_bytes, write_file

REPAIR = "delete it, and give the same command again"
VALUES = "values"


# What objects without a checksum, those of earlier versions, have: told.json, and answers-test.json and its like.
EARLIER_NAMES = {"told": ["trials"], "answers": ["predictions"]}


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """The plain values that a file holds, or new ones, which are written to it.

    Raises:
        DamagedFile: the file is not as it was written.
    """
    if path.is_file():
        return stored_values(path)
    values = compute()
    write_file(path, sealed_bytes({"format": SEALED, VALUES: values}), what="a part of the search")
    # As they are read back: a resumed search sees the same.
    return json.loads(json_bytes(values))


def stored_values(path: Path) -> Any:
    """The plain values that `kept` wrote; files of earlier versions hold them without a checksum.

    Raises:
        BadInput: the file cannot be read.
        DamagedFile: it is not as it was written.
    """
    if plain_bytes(path).startswith(b"{"):
        kind = path.stem.partition("-")[0]
        document = read_sealed(path, earlier_names=EARLIER_NAMES.get(kind), repair=REPAIR)
        return document.get(VALUES, document)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is not as it was written; {REPAIR}") from error


def stored_fields(path: Path, earlier_names: Collection[str] | None, repair: str = REPAIR) -> dict[str, Any]:
    """The values of a document that `field_bytes` made.

    Args:
        path: the file.
        earlier_names: in such documents without a checksum, those of earlier versions; None where there were none.
        repair: what a user does about a damaged file.

    Raises:
        BadInput: the file cannot be read.
        DamagedFile: it is not as it was written.
    """
    values = read_sealed(path, earlier_names=earlier_names, repair=repair)
    values.pop("format", None)
    return values


def field_bytes(values: Mapping[str, Any]) -> bytes:
    """A document of these values, none of them called "format", under its checksum."""
    return sealed_bytes({"format": SEALED, **values})
