"""Prompts as one array in a `.npy` file, the form in which Google's were published."""

import io
import os
import stat
from pathlib import Path

import numpy as np
import torch

from ..backbones import lasting_name
from ..documents import now, refuse_more, sha256_of
from ..errors import BadInput, CannotExport
from ..prompts.prompt import BackboneIdentity, SoftPrompt
from ..store import write_file
from ._imported import imported

# Of float64, with room for a header.
MAX_HEADER_BYTES = 2**16


def import_numpy(path: str | Path, *, backbone_name: str, kind: str = "encoder-decoder") -> SoftPrompt:
    """The prompt in a `.npy` file of shape [n, e], in float32.

    The published prompts of prompt tuning (Lester et al., 2021, arXiv:2104.08691) have this form.

    Args:
        path: the file.
        backbone_name: hub id or folder of the model it was trained for, for the record.
        kind: "encoder-decoder", "encoder" or "decoder".

    Raises:
        BadInput: a file that cannot be read, holds objects, several arrays, integers, or another shape than [n, e].
        UnknownName: a kind that does not exist.
    """
    array = _floats(Path(path))
    # astype is needed because the file may be big-endian, Fortran-ordered or float64, and is only mapped.
    with np.errstate(over="ignore"):
        vectors = torch.from_numpy(array.astype(np.float32))
    identity = BackboneIdentity(lasting_name(backbone_name), kind, array.shape[1])
    # The format has no checksum: what was read is recorded, so that a later copy can be compared with it.
    origin: dict[str, str | int] = {"imported_from": Path(path).name, "imported_sha256": sha256_of(Path(path))}
    return imported(vectors, identity, origin)


def export_numpy(prompt: SoftPrompt, path: str | Path) -> Path:
    """Write the n vectors as a plainly loaded backbone sees them, repeats written out, as float32 [n, e].

    A prompt trained at another embedding scale is converted to the checkpoint's own, because an array records no scale.

    Raises:
        CannotExport: a prompt without vectors, with a head or with several layers, which one array cannot hold, or one
            that stands in the place of an instruction.
        BadInput: the file exists.
        StorageFailure: the disk is full or not writable.
    """
    if prompt.deep is not None:
        raise CannotExport(f"a .npy file holds one layer's vectors, this prompt has {prompt.layers} layers; save it")
    if prompt.length == 0 or prompt.head is not None:
        raise CannotExport(
            "a .npy file holds vectors and nothing else, this prompt has a head; export to PEFT or save it"
        )
    if (prompt.provenance.task or {}).get("opening_ids"):
        raise CannotExport(
            "these vectors stand in the place of the instruction, which a .npy file cannot say; export to PEFT or "
            "save the prompt"
        )
    content = io.BytesIO()
    np.save(content, prompt.at_scale(1.0).expanded().numpy(force=True), allow_pickle=False)
    return write_file(Path(path), content.getvalue(), what="the array")


def _refuse_no_array(path: Path) -> None:
    """Refuse what is no regular file, or is far larger than a prompt, before anything is read of it."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadInput(f"cannot read {str(path)!r}: {error.strerror or error}; check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{str(path)!r} is a folder, a pipe or another special file; put the file itself there")
    if status.st_size > 8 * now().prompt_numbers + MAX_HEADER_BYTES:
        refuse_more("prompt_numbers", status.st_size // 8, f"{str(path)!r} has {status.st_size} bytes")


def _floats(path: Path) -> np.ndarray:
    """The array in a file. It is mapped, so that a header with a false size allocates no memory."""
    _refuse_no_array(path)
    try:
        # numpy.load would also open archives and pickles.
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise BadInput(f"cannot read {str(path)!r}: {error.strerror or error}; check the path") from error
    except Exception as error:  # numpy reads the header as Python, and each part of it fails in its own way.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInput(f"{str(path)!r} is no whole .npy file of numbers ({reason}); save it with numpy.save") from error
    if array.ndim != 2 or 0 in array.shape:
        raise BadInput(f"{str(path)!r} has shape {array.shape}, a prompt is (length, width); reshape it")
    if array.dtype.kind != "f":
        raise BadInput(f"{str(path)!r} holds {array.dtype}, a prompt holds floats; convert it to float32")
    refuse_more("prompt_numbers", array.size, f"{str(path)!r} holds {array.size} numbers")
    return array
