"""The backbones that softprompt brings: small trained models by name, each file checked before it is believed.

    weights/MANIFEST.json        {name: {file: SHA-256}}
    weights/<name>/config.json, generation_config.json, model.safetensors (float16), tokenizer.json, ...

Plain folders of transformers, read in float32. Nothing here needs torch but what writes them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import BadInput, DamagedFile, UnknownName

BUILT_IN = ("lab-t5", "lab-t5-small", "lab-bert", "lab-gpt")
WEIGHTS = Path(__file__).parent / "weights"
MANIFEST = "MANIFEST.json"
# What transformers writes into configurations beside what they are.
_CIRCUMSTANCES = ("transformers_version", "is_local", "local_files_only")


def folder_of(name: str) -> Path:
    """The folder of a built-in backbone, every file of it as it was shipped.

    Raises:
        UnknownName: no such backbone, with the nearest.
        DamagedFile: a file is missing, changed, or not one that was shipped.
    """
    if name not in BUILT_IN:
        raise UnknownName("built-in backbone", name, BUILT_IN)
    folder, listed = WEIGHTS / name, _listed(name)
    for file, digest in listed.items():
        if not (folder / file).is_file():
            raise _damaged(name, f"its {file} is missing")
        if _digest(folder / file) != digest:
            raise _damaged(name, f"its {file} is not what was shipped (SHA-256 differs)")
    # transformers would read some of them: weights in another format, an adapter.
    if others := sorted(set(_files(folder)) - listed.keys()):
        raise _damaged(name, f"{others[0]} beside its files is not ours")
    return folder


def copy_backbone(name: str, folder: str | Path) -> Path:
    """Write a built-in backbone into a new folder for plain `from_pretrained`.

    Raises:
        UnknownName: no such backbone.
        DamagedFile: the installed files are not as they were shipped.
        BadInput: the folder exists.
        StorageFailure: the disk is full or not writable.
    """
    from ..store import write_folder

    source = folder_of(name)
    contents = {file: (source / file).read_bytes() for file in _files(source)}
    return write_folder(Path(folder), contents, what=f"the backbone {name}", manifest=False)


def write_backbone(
    model: Any, tokenizer: Any, folder: str | Path, *, replace: bool = False, extra: Mapping[str, bytes] | None = None
) -> Path:
    """Write a model as built-in backbones are shipped: weights in float16, to be computed with in float32.

    The same model gives the same bytes. It stays as it is.

    Args:
        model: what transformers built, in any precision.
        tokenizer: its tokenizer.
        folder: where; an empty folder is taken.
        replace: exchange the backbone that is there.
        extra: more files, by name.

    Raises:
        BadInput: the folder exists, or weights that float16 cannot hold.
        StorageFailure: the disk is full or not writable; what was there before still is.
    """
    import copy
    import tempfile

    import torch

    from ..store import write_folder

    half = copy.deepcopy(model).to("cpu", torch.float16)
    for key, weight in half.state_dict().items():
        if not torch.isfinite(weight).all():
            raise BadInput(f"{key} holds numbers beyond float16 (65504); a backbone is shipped in float16")
    with tempfile.TemporaryDirectory() as temporary:
        with _no_bar():
            half.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        contents = {path.name: path.read_bytes() for path in sorted(Path(temporary).iterdir())}
    for name in [name for name in contents if name.endswith("config.json")]:
        contents[name] = _stable(json.loads(contents[name]), is_model=name == "config.json")
    contents |= extra or {}
    return write_folder(Path(folder), contents, what="the backbone", replace=replace, manifest=False)


def install_backbone(name: str, folder: str | Path) -> Path:
    """Put a pretrained backbone in the place of the one that is shipped, and list its files; where it lies now.

    Raises:
        UnknownName: no such backbone.
        StorageFailure: the disk is full or not writable.
    """
    from ..store import write_folder

    if name not in BUILT_IN:
        raise UnknownName("built-in backbone", name, BUILT_IN)
    contents = {file: (Path(folder) / file).read_bytes() for file in _files(Path(folder))}
    installed = write_folder(WEIGHTS / name, contents, what=f"the backbone {name}", replace=True, manifest=False)
    write_manifest()
    return installed


def write_manifest(root: str | Path | None = None) -> Path:
    """Write MANIFEST.json: the SHA-256 of every file of each built-in backbone that is there.

    Args:
        root: folder of the backbones' folders; None is where they are shipped.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    from ..store import json_bytes, write_file

    root = WEIGHTS if root is None else Path(root)
    digests = {
        name: {file: _digest(root / name / file) for file in _files(root / name)}
        for name in BUILT_IN
        if (root / name).is_dir()
    }
    return write_file(root / MANIFEST, json_bytes(digests), what="the manifest of the backbones", replace=True)


def _stable(config: dict[str, Any], *, is_model: bool) -> bytes:
    """A configuration without what wrote it and whence it was loaded, which names the precision to compute in."""
    from ..store import json_bytes

    kept = {key: value for key, value in config.items() if key not in _CIRCUMSTANCES}
    return json_bytes({**kept, "dtype": "float32"} if is_model else kept)


@contextmanager
def _no_bar() -> Iterator[None]:
    """No progress bar of transformers within, for a file that takes milliseconds."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def _files(folder: Path) -> list[str]:
    """Names of the files in a folder, hidden ones left out (a file manager's)."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(name: str) -> dict[str, str]:
    """The shipped files of a backbone, with their digests."""
    try:
        return dict(json.loads((WEIGHTS / MANIFEST).read_text("utf-8"))[name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(name, f"{MANIFEST} does not list it") from error


def _damaged(name: str, what: str) -> DamagedFile:
    return DamagedFile(
        f"the built-in backbone {name!r} is damaged: {what}; reinstall softprompt, or run "
        f"python -m experiments.pretraining {name}"
    )
