"""Token ids on disk, under the hash of everything that they depend on. They are computed once and read afterwards."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from ..machine import rows_cache
from ._examples import Ragged

FORMAT = 2
logger = logging.getLogger("softprompt")
Tokens = tuple[Ragged, Ragged, int]


def content_key(parts: Iterable[Any]) -> str:
    """The hash of plain values, in order, and of this file's format."""
    digest = hashlib.sha256(f"softprompt tokens {FORMAT}".encode())
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def tokenizer_key(tokenizer: Any) -> str:
    """A hash of a tokenizer's whole definition, independent of its name."""
    if getattr(tokenizer, "is_fast", False):
        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        # The last caller left these settings in the tokenizer.
        definition.pop("truncation", None)
        definition.pop("padding", None)
    else:
        definition = [tokenizer.get_vocab(), repr(tokenizer)]
    return content_key([type(tokenizer).__name__, json.dumps(definition, sort_keys=True)])


def cached(key: str, make: Callable[[], Tokens]) -> Tokens:
    """What `make` returns (token ids, parts, rows cut), from the folder if it is there; a damaged file is made again.

    If there is no folder, or it cannot be written, the run takes longer but does not fail.
    """
    if (folder := rows_cache()) is None:
        return make()
    path = folder / f"{key}.tokens"
    value = _read(path)
    if value is None:
        value = make()
        try:
            _write(path, *value)
        except OSError as error:
            logger.warning("tokens are not cached in %s: %s", folder, error)
    return value


def _read(path: Path) -> Tokens | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, payload = content[:32], content[32:]
    # safetensors does not notice a flipped bit in its data.
    if hashlib.sha256(payload).digest() != digest:
        logger.warning("damaged cache file %s; it is made again", path)
        return None
    tensors = load(payload)
    ids, parts = (Ragged(tensors[name], tensors["offsets"]) for name in ("flat", "parts"))
    return ids, parts, int(tensors["truncated"])


def _write(path: Path, ids: Ragged, parts: Ragged, truncated: int) -> None:
    tensors = {"flat": ids.flat, "parts": parts.flat, "offsets": ids.offsets, "truncated": torch.tensor(truncated)}
    payload = save(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(hashlib.sha256(payload).digest() + payload)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
