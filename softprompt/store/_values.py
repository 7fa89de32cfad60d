"""Conversion of tensors to bytes and back.

A file may come from a stranger, so its sizes are checked before memory is allocated.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..documents import now, refuse_more
from ..errors import BadInput, DamagedFile

MAX_HEADER_BYTES = 2**20
MAX_BYTES_EACH = 8
# Some operations of torch fail above 64.
MAX_DIMENSIONS = 16


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a safetensors file with these tensors, their bits and dtypes unchanged."""
    # safetensors refuses tensors that share memory, as rows of one parameter do, so each tensor is cloned.
    return save(
        {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    )


def read_tensors(path: Path, *, is_bounded: bool = True) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Args:
        path: the file.
        is_bounded: whether it may hold no more numbers than a prompt (`Limits.prompt_numbers`), which is checked in the
            header before any tensor is read.

    Raises:
        BadInput: the file cannot be read, or it holds more numbers.
        DamagedFile: the file is not a safetensors file, or it is truncated.
    """
    try:
        # These checks come before safetensors maps the file. A hostile file may be sparse and claim terabytes, or have
        # a header of 100 MB of JSON. Our header has a few hundred bytes.
        size = path.stat().st_size
        if is_bounded and size > MAX_BYTES_EACH * now().prompt_numbers + MAX_HEADER_BYTES:
            refuse_more("prompt_numbers", size // MAX_BYTES_EACH, f"{str(path)!r} has {size} bytes")
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if is_bounded and header > MAX_HEADER_BYTES:
            raise DamagedFile(f"{str(path)!r} is not a safetensors file, or its header is damaged; fetch it again")
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            shapes = {name: file.get_slice(name).get_shape() for name in names}
            if deep := [name for name, shape in shapes.items() if len(shape) > MAX_DIMENSIONS]:
                raise BadInput(
                    f"{deep[0]!r} in {str(path)!r} has more than {MAX_DIMENSIONS} dimensions; check its origin"
                )
            count = sum(map(math.prod, shapes.values()))
            if is_bounded:
                refuse_more("prompt_numbers", count, f"{str(path)!r} holds {count} numbers")
            # get_tensor may return a view of the mapped file, which changes with the file, so each tensor is cloned.
            return {name: file.get_tensor(name).clone() for name in names}
    except OSError as error:
        raise BadInput(
            f"cannot read {str(path)!r}: {error.strerror or error}; check the path and its permissions"
        ) from error
    except SafetensorError as error:
        raise DamagedFile(f"{str(path)!r} is not a whole safetensors file ({error}); fetch it again") from error
