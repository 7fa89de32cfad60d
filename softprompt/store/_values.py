"""Conversion of JSON and tensors to bytes and back.

A file may come from a stranger, so its sizes are checked before memory is allocated.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import BadInput, DamagedFile

# 64 MiB of float32: 2,048 vectors of width 8,192, which is far more than any prompt has.
MAX_ELEMENTS = 2**24
MAX_JSON_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 2**20
MAX_BYTES_EACH = 8


def json_bytes(values: Any, *, allow_nan: bool = False) -> bytes:
    """Return readable JSON in UTF-8, from which each float is read back with the same bits.

    Args:
        values: plain values. Tuples are read back as lists.
        allow_nan: whether NaN and infinity are written as Python does. Otherwise they become null, as standard JSON
            has no such numbers.
    """
    plain = values if allow_nan else _without_nan(values)
    return (json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _without_nan(values: Any) -> Any:
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {key: _without_nan(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_without_nan(value) for value in values]
    return values


def read_json(path: Path, *, max_bytes: int | None = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        BadInput: the file cannot be read, or it is larger than `max_bytes`.
        DamagedFile: the file does not hold a JSON object.
    """
    try:
        with path.open("rb") as file:
            content = file.read() if max_bytes is None else file.read(max_bytes + 1)
    except OSError as error:
        raise BadInput(f"cannot read {str(path)!r}: {error.strerror}; check the path and its permissions") from error
    if max_bytes is not None and len(content) > max_bytes:
        raise BadInput(
            f"{str(path)!r} is larger than {max_bytes} bytes, too large to be ours; check where it comes from"
        )
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{str(path)!r} is not JSON; restore it from a copy") from error
    if not isinstance(values, dict):
        raise DamagedFile(f"{str(path)!r} holds no JSON object; restore it from a copy")
    return values


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a safetensors file with these tensors, their bits and dtypes unchanged."""
    # safetensors refuses tensors that share memory, as rows of one parameter do, so each tensor is cloned.
    return save(
        {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    )


def read_tensors(path: Path, *, max_elements: int | None = MAX_ELEMENTS) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Args:
        path: the file.
        max_elements: largest count of numbers in all tensors, which is checked in the header before any tensor is
            read; None sets no bound.

    Raises:
        BadInput: the file cannot be read, or it holds more numbers than `max_elements`.
        DamagedFile: the file is not a safetensors file, or it is truncated.
    """
    try:
        # These checks come before safetensors maps the file. A hostile file may be sparse and claim terabytes, or have
        # a header of 100 MB of JSON. Our header has a few hundred bytes.
        size = path.stat().st_size
        if max_elements is not None and size > MAX_BYTES_EACH * max_elements + MAX_HEADER_BYTES:
            raise BadInput(f"{str(path)!r} has {size} bytes, far more than a prompt; check where it comes from")
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if max_elements is not None and header > MAX_HEADER_BYTES:
            raise DamagedFile(f"{str(path)!r} is not a safetensors file, or its header is damaged; fetch it again")
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            count = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
            if max_elements is not None and count > max_elements:
                raise BadInput(
                    f"{str(path)!r} holds {count} numbers, a prompt at most {max_elements}; check its origin"
                )
            # get_tensor may return a view of the mapped file, which changes with the file, so each tensor is cloned.
            return {name: file.get_tensor(name).clone() for name in names}
    except OSError as error:
        raise BadInput(
            f"cannot read {str(path)!r}: {error.strerror or error}; check the path and its permissions"
        ) from error
    except SafetensorError as error:
        raise DamagedFile(f"{str(path)!r} is not a whole safetensors file ({error}); fetch it again") from error
