"""What a frozen model is called: a built-in name, a hub id, or a folder."""

import logging
import os
from pathlib import Path

from torch import nn

from ..builtin import BUILT_IN
from ..errors import BadInput, UnknownName

log = logging.getLogger("softprompt")


def refuse_no_folder(name: str) -> None:
    """Refuse a folder that is not a model's, a path that is no folder, and a built-in name that is none.

    Raises:
        BadInput: which of the first two.
        UnknownName: "lab-" and something that is not built in, nor a folder here.
    """
    path = Path(name)
    if name in BUILT_IN:
        if path.is_dir():
            log.warning("%r is the backbone that softprompt brings; the folder here is ./%s", name, name)
        return
    if name.startswith("lab-") and "/" not in name and not path.exists():
        raise UnknownName("built-in backbone", name, BUILT_IN)
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
    if str(name_or_path).startswith("~"):
        return str(Path(name_or_path).expanduser())
    name = str(name_or_path)
    return os.path.join(os.curdir, name) if isinstance(name_or_path, Path) and name in BUILT_IN else name


def lasting_name(name: str) -> str:
    """A model's name that means the same from any folder: the whole path of a folder, else the name as it is."""
    return os.path.abspath(name) if name not in BUILT_IN and os.path.isdir(name) else name
