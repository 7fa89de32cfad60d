"""JSON and tensors to bytes and back.

What is read may come from a stranger: sizes are checked before memory is taken.
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

# 64 MiB of float32: 2,048 vectors of width 8,192, far beyond any prompt.
MAX_ELEMENTS = 2**24
MAX_JSON_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 2**20
MAX_BYTES_EACH = 8


def json_bytes(values: Any, *, allow_nan: bool = False) -> bytes:
    """Readable JSON in UTF-8; each float is written so that the same bits are read back.

    Args:
        values: plain values; tuples come back as lists.
        allow_nan: write NaN and infinity as Python does; otherwise they become null, as the standard has it.
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
    """The JSON object in a file.

    Raises:
        BadInput: the file cannot be read or is larger than `max_bytes`.
        DamagedFile: it holds something else.
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
    """Tensors as a safetensors file, with the bits and dtypes they have."""
    # Cloned: safetensors refuses tensors that share memory, and rows of one parameter do.
    return save(
        {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    )


def read_tensors(path: Path, *, max_elements: int | None = MAX_ELEMENTS) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: the file.
        max_elements: numbers in all tensors, counted from the header before any is read; None is no bound.

    Raises:
        BadInput: the file cannot be read or holds more numbers than `max_elements`.
        DamagedFile: it is not a safetensors file, or is cut short.
    """
    try:
        # The header of a hostile file may be 100 MB of JSON; ours is some hundred bytes.
        # Before safetensors maps it: a file may claim terabytes of holes.
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
            # Cloned: get_tensor may return a view of the mapped file, which changes when the file does.
            return {name: file.get_tensor(name).clone() for name in names}
    except OSError as error:
        raise BadInput(
            f"cannot read {str(path)!r}: {error.strerror or error}; check the path and its permissions"
        ) from error
    except SafetensorError as error:
        raise DamagedFile(f"{str(path)!r} is not a whole safetensors file ({error}); fetch it again") from error
