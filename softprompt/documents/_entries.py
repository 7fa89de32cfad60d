"""What vouches for another file: its size and its SHA-256, as manifests and results list them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def entry(content: bytes) -> dict[str, Any]:
    """What is listed of a file with this content."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


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
