"""Writes built-in backbones: folders of transformers in float16 and the list of their files."""

import copy
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from softprompt import builtin
from softprompt.builtin import digest_of, files_in
from softprompt.errors import BadInput, UnknownName
from softprompt.store import json_bytes, write_file, write_folder
from transformers.utils import logging

# What transformers writes into configurations beside what they are.
_CIRCUMSTANCES = ("transformers_version", "is_local", "local_files_only")


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
    if name not in builtin.BUILT_IN:
        raise UnknownName("built-in backbone", name, builtin.BUILT_IN)
    contents = {file: (Path(folder) / file).read_bytes() for file in files_in(Path(folder))}
    installed = write_folder(
        builtin.WEIGHTS / name, contents, what=f"the backbone {name}", replace=True, manifest=False
    )
    write_manifest()
    return installed


def write_manifest(root: str | Path | None = None) -> Path:
    """Write MANIFEST.json: the SHA-256 of every file of each built-in backbone that is there.

    Args:
        root: folder of the backbones' folders; None is where they are shipped.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    root = builtin.WEIGHTS if root is None else Path(root)
    digests = {
        name: {file: digest_of(root / name / file) for file in files_in(root / name)}
        for name in builtin.BUILT_IN
        if (root / name).is_dir()
    }
    return write_file(root / builtin.MANIFEST, json_bytes(digests), what="the manifest of the backbones", replace=True)


def _stable(config: dict[str, Any], *, is_model: bool) -> bytes:
    """A configuration without what wrote it and whence it was loaded, which names the precision to compute in."""
    kept = {key: value for key, value in config.items() if key not in _CIRCUMSTANCES}
    return json_bytes({**kept, "dtype": "float32"} if is_model else kept)


@contextmanager
def _no_bar() -> Iterator[None]:
    """No progress bar of transformers within, for a file that takes milliseconds."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()
