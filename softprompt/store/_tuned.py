"""Stored weights: one file of tensors, one document about them, and their manifest, read as carefully as a prompt."""

from pathlib import Path

from torch import Tensor

from ..documents import json_bytes, read_json
from ..errors import BadInput, DamagedFile, some_of
from ..prompts.prompt import SoftPrompt
from ..prompts.tuned import TunedWeights
from ..run_layout import WEIGHTS
from ._folder import read_folder, settled, write_folder
from ._prompt import read_provenance
from ._run import in_run
from ._values import read_tensors, tensor_bytes

FORMAT = 1
TENSORS, DOCUMENT = "weights.safetensors", "weights.json"


def save_tuned(tuned: TunedWeights, folder: str | Path) -> Path:
    """Write trained weights into a new folder: tensors, a document about them, and a manifest with checksums of both.

    Raises:
        BadInput: the folder exists.
        StorageFailure: the disk is full or not writable. What was stored before stays intact.
    """
    document = {
        "format": FORMAT,
        "kind": tuned.kind,
        "options": dict(tuned.options),
        "shapes": {name: list(tensor.shape) for name, tensor in tuned.tensors().items()},
        "provenance": tuned.provenance.to_json(),
    }
    contents = {TENSORS: tensor_bytes(tuned.tensors()), DOCUMENT: json_bytes(document)}
    return write_folder(Path(folder), contents, what="the trained weights")


def load_tuned(path: str | Path) -> TunedWeights:
    """Read the trained weights that a path names: their folder, that of a member of a run, or a run with one member.

    Raises:
        BadInput: nothing of this kind is there, or there are several.
        DamagedFile: a file differs from what was written, or contradicts another file.
    """
    folder = _found(Path(path))
    files = read_folder(folder)
    for name in (TENSORS, DOCUMENT):
        if name not in files:
            raise BadInput(f"{str(folder)!r} holds no {name}, so it is not a folder of trained weights")
    document, tensors = read_json(files[DOCUMENT]), read_tensors(files[TENSORS], is_bounded=False)
    if document.get("format") != FORMAT:
        raise BadInput(
            f"{str(folder)!r} is of format {document.get('format')!r}, this softprompt reads {FORMAT}; upgrade it"
        )
    if document.get("shapes") != {name: list(tensor.shape) for name, tensor in tensors.items()}:
        raise DamagedFile(f"the weights in {str(folder)!r} have other sizes than its document says; fetch it again")
    kind, options = document.get("kind"), document.get("options")
    if not isinstance(kind, str) or not isinstance(options, dict) or "prompt.vectors" not in tensors:
        raise BadInput(f"{str(folder)!r} does not say what was trained; fetch it again")
    provenance = read_provenance(document.get("provenance"), str(folder))
    _check_prompt(tensors["prompt.vectors"], provenance.backbone.embedding_size, folder)
    prompt = in_run(SoftPrompt(tensors["prompt.vectors"], provenance), folder.absolute().parent.parent)
    return TunedWeights.from_tensors(tensors, prompt.provenance, kind, options)


def holds_tuned(path: str | Path) -> bool:
    """Whether a path is a folder of trained weights, or the folder of a member or a run that has some and no prompt."""
    folder = settled(Path(path))
    prompts = [*folder.glob("prompt/prompt.json"), *folder.glob("*/prompt/prompt.json")]
    return (folder / DOCUMENT).is_file() or (bool(_members(folder)) and not prompts)


def _check_prompt(vectors: Tensor, width: int, folder: Path) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise BadInput(
            f"the prompt beside the weights in {str(folder)!r} has shape {tuple(vectors.shape)[:4]}, needed is "
            f"(length, {width}); fetch it again"
        )


def _found(path: Path) -> Path:
    folder = settled(path)
    if (folder / DOCUMENT).is_file():
        return folder
    members = _members(folder)
    if not members:
        raise BadInput(f"no trained weights are stored in {str(path)!r}; give their folder, or a run of one method")
    if len(members) > 1:
        names = some_of([member.parent.name for member in members])
        raise BadInput(f"run {str(path)!r} has several: {names}; give one, as in {str(members[0].parent)!r}")
    return members[0]


def _members(folder: Path) -> list[Path]:
    """The folders of trained weights in the folder of a member, or in a run."""
    return sorted(path.parent for pattern in (WEIGHTS, f"*/{WEIGHTS}") for path in folder.glob(f"{pattern}/{DOCUMENT}"))
