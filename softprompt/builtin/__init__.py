"""The backbones that softprompt brings: small trained models by name, each file checked before it is believed.

    weights/MANIFEST.json        {name: {file: SHA-256}}
    weights/<name>/config.json, generation_config.json, model.safetensors (float16), tokenizer.json, ...

Plain folders of transformers, read in float32. `experiments/pretraining` writes them.
"""

import hashlib
import json
from pathlib import Path

from ..errors import DamagedFile, UnknownName

BUILT_IN = ("lab-t5", "lab-t5-small", "lab-bert", "lab-gpt")
WEIGHTS = Path(__file__).parent / "weights"
MANIFEST = "MANIFEST.json"


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
        if digest_of(folder / file) != digest:
            raise _damaged(name, f"its {file} is not what was shipped (SHA-256 differs)")
    # transformers would read some of them: weights in another format, an adapter.
    if others := sorted(set(files_in(folder)) - listed.keys()):
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
    contents = {file: (source / file).read_bytes() for file in files_in(source)}
    return write_folder(Path(folder), contents, what=f"the backbone {name}", manifest=False)


def files_in(folder: Path) -> list[str]:
    """Names of the files in a folder, hidden ones left out (a file manager's)."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
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
