"""What a frozen model is called, and where it is read from: a built-in name, a hub id, a folder, or a GGUF file."""

import logging
import os
from pathlib import Path

from torch import nn

from ..builtin import BUILT_IN, folder_of
from ..builtin.packaged import PACKAGED, packaged_file
from ..errors import BadInput, UnknownName
from ._gguf import folder_of_gguf, gguf_file

log = logging.getLogger("softprompt")

# Names that mean a model, and never a folder here.
_RESERVED = (*BUILT_IN, *PACKAGED)


def refuse_no_folder(name: str) -> None:
    """Refuse a folder that is not a model's, a path that leads to no model, and a built-in name that is none.

    Raises:
        BadInput: which of the first two, or a packaged model that is not installed.
        UnknownName: "lab-" and something that is not built in, nor a folder here.
    """
    path = Path(name)
    if name in _RESERVED:
        if path.is_dir():
            log.warning("%r is the backbone that softprompt brings; the folder here is ./%s", name, name)
        if name in PACKAGED:
            packaged_file(name)
        return
    if name.startswith("lab-") and "/" not in name and not path.exists():
        raise UnknownName("built-in backbone", name, _RESERVED)
    if gguf_file(name) is not None:
        return
    if name and path.is_dir() and not (path / "config.json").exists():
        raise BadInput(f"folder {name!r} holds no config.json; give a folder that `save_pretrained` wrote, or a hub id")
    looks_like_a_path = name.count("/") > 1 or name.startswith((".", "/")) or path.is_file()
    if not name or (looks_like_a_path and not path.is_dir()):
        raise BadInput(f"there is no model folder {name!r}; give a folder that `save_pretrained` wrote, or a hub id")


def model_name(name_or_path: object) -> str:
    """What a model is called: as given, but a path that reads like a built-in name is one to a folder.

    Raises:
        BadInput: something else than a name or a path, as a model that is loaded.
    """
    if not isinstance(name_or_path, str | Path):
        kind = type(name_or_path).__name__
        remedy = "pass softprompt.from_model(model, tokenizer)" if isinstance(name_or_path, nn.Module) else ""
        raise BadInput(f"a {kind} is no name of a model; {remedy or 'give a hub id, a folder or a backbone'}")
    name = os.path.expanduser(str(name_or_path))
    return os.path.join(os.curdir, name) if isinstance(name_or_path, Path) and name in _RESERVED else name


def lasting_name(name: str) -> str:
    """A model's name that means the same from any folder: the whole path of a folder or a file, else as it is."""
    is_a_path = name not in _RESERVED and (os.path.isdir(name) or gguf_file(name) is not None)
    return os.path.abspath(name) if is_a_path else name


def source_of(name: str) -> str:
    """Where transformers reads a model from: a folder that softprompt has or makes, else what the name says.

    Args:
        name: of `model_name`.

    Raises:
        DamagedFile: a built-in model's file is not as it was shipped.
        BadInput: a GGUF file that cannot be read, or a packaged model that is not installed.
        UnsupportedModel: a GGUF file of an architecture or a quantisation that cannot be read.
    """
    if name in BUILT_IN:
        return str(folder_of(name))
    file = packaged_file(name) if name in PACKAGED else gguf_file(name)
    if file is None:
        return name
    return str(file.parent if file.suffix == ".safetensors" else folder_of_gguf(file))
