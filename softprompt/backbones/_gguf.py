"""Models in GGUF files, as llama.cpp has them: dequantised once into a folder of transformers, and read from there.

    <cache>/gguf/<first 32 digits of the file's SHA-256>/   config.json, model.safetensors (float32), tokenizer.json,
                                                            and complete.json, which lists the sizes of the others

The cache is `$SOFTPROMPT_CACHE`, or `softprompt` in the cache folder of huggingface_hub. A conversion is written beside
its place and renamed into it, so that a killed one leaves nothing that is read.
"""

import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..builtin.packaged import file_sha256
from ..errors import BadInput, StorageFailure, UnsupportedModel
from ..machine import named_cache
from ..store import json_bytes, read_json
from ._fit import LOADING, first_line
from ._read import silence

log = logging.getLogger("softprompt")

_COMPLETE = "complete.json"
_DIGITS = 32


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a name stands for: the file itself, or the only one in a folder without a configuration.

    Raises:
        BadInput: the folder holds several.
    """
    path = Path(name)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf" and file.is_file())
    if len(files) > 1:
        named = ", ".join(file.name for file in files)
        raise BadInput(f"folder {name!r} holds {len(files)} GGUF files ({named}); give one of them")
    return files[0] if files else None


def folder_of_gguf(path: Path) -> Path:
    """The folder of transformers that a GGUF file becomes; it is made when the file is first met.

    Raises:
        BadInput: a file that is damaged, is no GGUF or is a part of one, or the package gguf is missing.
        UnsupportedModel: an architecture or a quantisation that cannot be read.
        StorageFailure: the cache cannot be written.
    """
    from filelock import FileLock

    folder = cache_folder() / "gguf" / file_sha256(path)[:_DIGITS]
    if _is_complete(folder):
        return folder
    _refuse_unreadable(path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Processes that meet the file at the same time convert it once.
        with FileLock(f"{folder}.lock"):
            if not _is_complete(folder):
                _convert_into(path, folder)
    except OSError as error:
        raise StorageFailure(
            f"{path.name} cannot be dequantised into {str(folder)!r}: {error.strerror or error}; make room there, or "
            "name another place by SOFTPROMPT_CACHE"
        ) from error
    return folder


def cache_folder() -> Path:
    """Where what is made of models is kept: `$SOFTPROMPT_CACHE`, or a folder in huggingface_hub's cache."""
    from huggingface_hub.constants import HF_HOME

    return named_cache() or (Path(HF_HOME) / "softprompt").absolute()


def _is_complete(folder: Path) -> bool:
    """Whether a conversion was finished and none of its files was cut since."""
    try:
        sizes = read_json(folder / _COMPLETE)["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except Exception:
        return False


def _convert_into(path: Path, folder: Path) -> None:
    """Dequantise a file beside the folder and put it in its place; what a killed conversion left is removed."""
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        _write(path, temporary)
        sizes = {file.name: file.stat().st_size for file in temporary.iterdir()}
        (temporary / _COMPLETE).write_bytes(json_bytes({"source": path.name, "sizes": sizes}))
        for file in temporary.iterdir():
            _flush(file)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(path: Path, folder: Path) -> None:
    """Let transformers read a GGUF file and save what it read, in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    # Read by itself: files that lie beside it belong to other models.
    alone = folder / "source"
    alone.mkdir()
    (alone / path.name).symlink_to(path.absolute())
    how: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        with _quietly():
            config = AutoConfig.from_pretrained(alone, **how)
        log.warning("%s is dequantised to float32, once; from now on it is read from %s", path.name, cache_folder())
        with _quietly():
            tokenizer = AutoTokenizer.from_pretrained(alone, **how)
            auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            loaded: Any = auto.from_pretrained(alone, dtype=torch.float32, output_loading_info=True, **how)
            model, report = loaded
    except (*LOADING, NotImplementedError) as error:
        raise _why_not_read(path, error) from error
    finally:
        shutil.rmtree(alone)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UnsupportedModel(
            f"{path.name} lacks {len(missing)} weights of its architecture ({missing[0]} ...); give another file"
        )
    # The weights are plain numbers now, which transformers takes for quantised ones because their file was.
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)
    with silence():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Within, transformers draws nothing: the bar of its dequantisation is drawn whatever it is asked for."""
    with silence(), contextlib.redirect_stderr(io.StringIO()):
        yield


def _refuse_unreadable(path: Path) -> None:
    """Refuse what a look into the file's head shows: seconds before transformers reads all of it."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BadInput(f"{str(path)!r} is no GGUF file: it does not begin with GGUF; download it again")
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{path.name} is read with the package gguf, which is not installed; pip install gguf"
        ) from error
    try:
        reader = gguf.GGUFReader(path)
    # The reader knows no error of its own: a damaged head raises whatever its numbers lead to.
    except Exception as error:
        raise BadInput(f"{str(path)!r} is damaged or cut short ({first_line(error)}); download it again") from error
    parts = reader.get_field("split.count")
    if parts is not None and parts.contents() > 1:
        raise BadInput(f"{path.name} is one of {parts.contents()} parts; join them with llama-gguf-split --merge")
    for kind in {tensor.tensor_type for tensor in reader.tensors}:
        if not _can_dequantise(kind):
            raise UnsupportedModel(
                f"{path.name} holds weights quantised as {kind.name}, which cannot be dequantised; "
                "give a file in Q4_K, Q8_0 or F16"
            )


def _can_dequantise(kind: Any) -> bool:
    """Whether one block of zeros in this kind of numbers becomes floats."""
    import gguf
    import numpy as np

    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)
    except (NotImplementedError, KeyError):
        return False
    return True


def _why_not_read(path: Path, error: BaseException) -> BadInput | UnsupportedModel:
    """What transformers says of a GGUF file that it cannot read, in one line that says what it can."""
    message = first_line(error)
    if "architecture" in message or isinstance(error, NotImplementedError):
        known = ", ".join(gguf_architectures())
        return UnsupportedModel(f"{path.name} cannot be read: {message.rstrip('.')}; transformers reads {known}")
    return BadInput(f"{path.name} cannot be read: {message}; download it again, or give another file")


def gguf_architectures() -> list[str]:
    """The architectures that transformers reads from GGUF, from its own table."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    return sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer"})


def _flush(path: Path) -> None:
    """Bring a file to the disk before the folder is renamed: after a power cut it would be there, and empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
