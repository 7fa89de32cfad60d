"""The stored prompt: two small files and their manifest. Reading checks every file, as it may come from a stranger."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..documents import check_shape, in_file, json_bytes, now, read_json, refuse_more, sha256_of
from ..errors import BadInput, DamagedFile, some_of
from ..legacy import renamed
from ..prompts.prompt import BackboneIdentity, Provenance, SoftPrompt
from ..run_layout import PROMPT, WEIGHTS, is_run
from ..tasks import Task, check_stored
from ._folder import MANIFEST, read_folder, settled, write_folder
from ._run import in_run
from ._values import MAX_HEADER_BYTES, read_tensors, tensor_bytes

FORMAT = 1
TENSORS, DOCUMENT = "prompt.safetensors", "prompt.json"
# The documents of prompts that `softprompt compile` made, of a decoder and of a T5.
COMPILED = ("cache.json", "limit.json")
METRICS = Mapping[str, Mapping[str, Any]]


def save_prompt(prompt: SoftPrompt, folder: str | Path, *, replace: bool = False) -> Path:
    """Write a prompt into a new folder: its tensors, a document about them, and a manifest with checksums of both.

    Args:
        prompt: the prompt.
        folder: the new folder. An empty folder at this place is used.
        replace: whether a prompt that is stored there is replaced.

    Raises:
        BadInput: the folder exists.
        StorageFailure: the disk is full or not writable. What was stored before stays intact.
    """
    contents = {TENSORS: tensor_bytes(prompt.tensors()), DOCUMENT: json_bytes(to_document(prompt))}
    return write_folder(Path(folder), contents, what="the prompt", replace=replace)


def read_prompt(folder: str | Path) -> SoftPrompt:
    """Read the prompt in a folder, after a check that every byte is as it was written and the tensors fit a prompt.

    Raises:
        BadInput: the folder holds no prompt, or one that this version cannot use.
        DamagedFile: a file differs from what was written, or contradicts another file.
    """
    folder = settled(Path(folder))
    is_none = not (folder / MANIFEST).is_file() and not (folder / DOCUMENT).exists()
    if is_none or is_compiled(folder):
        raise BadInput(_no_prompt(folder))
    files = read_folder(folder, max_bytes=4 * now().prompt_numbers + MAX_HEADER_BYTES)
    for name in (TENSORS, DOCUMENT):
        if name not in files:
            raise BadInput(f"{str(folder)!r} holds no {name}, so it is not a stored prompt; give a prompt's folder")
    prompt = from_document(read_json(files[DOCUMENT]), read_tensors(files[TENSORS]), str(folder))
    return in_run(prompt, folder.absolute().parent.parent)


def is_compiled(folder: Path) -> bool:
    """Return whether a folder holds what `softprompt compile` made of a prompt, which is none any more."""
    return any((folder / name).is_file() for name in COMPILED)


def find_prompt(path: str | Path) -> Path:
    """Find the folder of the stored prompt that a path names.

    The path may be that folder itself, the folder of a prompt in a run, or a run with a single prompt.

    Raises:
        BadInput: the path is no folder, no prompt is stored yet, or a run has several prompts; the message names them.
    """
    path = Path(path)
    if not settled(path).is_dir():
        raise BadInput(f"{str(path)!r} is not a folder; give a stored prompt or a run")
    if settled(path / PROMPT).is_dir() and not (path / MANIFEST).exists():
        return path / PROMPT
    if not is_run(path):
        return path
    weights = {document.parent.parent.name for document in path.glob(f"*/{WEIGHTS}/weights.json")}
    prompts = sorted(weights | {prompt.name for prompt in path.iterdir() if settled(prompt / PROMPT).is_dir()})
    if prompts and len(prompts) == len(weights):
        raise BadInput(f"run {str(path)!r} holds trained weights, not a prompt; softprompt.load reads them")
    if not prompts:
        raise BadInput(f"run {str(path)!r} has stored no prompt yet; train it to its first evaluation")
    if len(prompts) > 1:
        names = some_of(prompts)
        raise BadInput(f"run {str(path)!r} has several prompts: {names}; give one, as in {str(path / prompts[0])!r}")
    return path / prompts[0] / PROMPT


def input_digest(path: Path) -> str | None:
    """SHA-256 of a file, or of the manifest of a stored prompt; None where there is neither, as for one on the hub."""
    if path.is_dir():
        with contextlib.suppress(BadInput):
            path = find_prompt(path) / MANIFEST
    return sha256_of(path) if path.is_file() else None


def to_document(prompt: SoftPrompt) -> dict[str, Any]:
    """Return everything about a prompt but its tensors, as plain values."""
    provenance = prompt.provenance.to_json()
    if not provenance["scoring"]:
        # Absent, so that earlier versions read a prompt which they score alike.
        del provenance["scoring"]
    return {
        "format": FORMAT,
        "repeats": prompt.repeats,
        "shapes": {name: list(tensor.shape) for name, tensor in prompt.tensors().items()},
        "provenance": provenance,
    }


def from_document(document: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> SoftPrompt:
    """Build a prompt from its document and its tensors.

    Args:
        document: the result of `to_document`.
        tensors: the result of `SoftPrompt.tensors`.
        where: their folder, for messages.

    Raises:
        BadInput: the format, a dtype or a shape does not fit a prompt.
        DamagedFile: document and tensors contradict each other.
    """
    if document.get("format") != FORMAT:
        raise BadInput(f"{where!r} is of format {document.get('format')!r}, this softprompt reads {FORMAT}; upgrade it")
    repeats = document.get("repeats")
    if type(repeats) is not int or document.get("shapes") != {n: list(t.shape) for n, t in tensors.items()}:
        raise DamagedFile(f"the numbers in {where!r} have other sizes than its document says; fetch the prompt again")
    if repeats < 1:
        raise BadInput(f"{where!r} repeats its vectors {repeats} times, a prompt does so at least once; fetch it again")
    provenance = read_provenance(document.get("provenance"), where)
    _check_numbers(tensors, provenance.backbone.embedding_size, where)
    length = len(tensors["vectors"]) * repeats
    refuse_more("prompt_length", length, f"the prompt in {where!r} takes {length} positions")
    return SoftPrompt.from_tensors(tensors, provenance, repeats)


def _no_prompt(folder: Path) -> str:
    if (folder / "weights.json").exists() or (folder / WEIGHTS / "weights.json").exists():
        return f"{str(folder)!r} holds trained weights, not a prompt; softprompt.load reads them"
    if is_compiled(folder):
        return f"{str(folder)!r} holds a compiled prompt, for stock transformers; give the prompt that it was made from"
    if (folder / "adapter_config.json").exists():
        return f"{str(folder)!r} is a PEFT folder, not a stored prompt; bring it in with `softprompt import`"
    return f"no prompt is stored in {str(folder)!r}; give a prompt's folder, a run, or user/name on the hub"


def read_provenance(values: Any, where: str) -> Provenance:
    """Return the provenance that a document holds, after a check of its fields and their types.

    Raises:
        BadInput: a field is missing, unknown or of another type.
    """
    if not isinstance(values, dict):
        raise BadInput(f"{where!r} does not say where its prompt comes from; fetch the prompt again")
    with in_file(where):
        check_shape(Provenance, values, metrics=METRICS)
        check_shape(BackboneIdentity, values["backbone"])
        if values.get("task") is not None:
            # In part: what a later version added is refused where the task is needed.
            check_stored(Task, values["task"], partial=True)
        values = renamed(values)
        return Provenance(**{**values, "backbone": BackboneIdentity(**values["backbone"]), "is_foreign": True})


def _check_numbers(tensors: Mapping[str, Tensor], width: int, where: str) -> None:
    """Refuse tensors that would answer nonsense, by their names, dtypes, shapes and values."""
    if set(tensors) - {"deep"} not in ({"vectors"}, {"vectors", "head.weight", "head.bias"}):
        raise BadInput(
            f"{where!r} holds {sorted(tensors)}, a prompt holds vectors, perhaps deep ones and a head; check its origin"
        )
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise BadInput(f"{name!r} in {where!r} is {tensor.dtype}, a stored prompt is torch.float32; convert it")
        # Some operations of torch fail above 64.
        if tensor.ndim > 3:
            raise BadInput(
                f"{name!r} in {where!r} has {tensor.ndim} dimensions, a stored prompt at most 3; fetch it again"
            )
        if not torch.isfinite(tensor).all():
            raise BadInput(f"{name!r} in {where!r} holds NaN or infinity and would answer nonsense; train it again")
    vectors, weight, bias = (tensors.get(name) for name in ("vectors", "head.weight", "head.bias"))
    assert vectors is not None
    # A prompt of length 0 has a head only; without a head there is nothing left.
    if vectors.ndim != 2 or vectors.shape[1] != width or width < 1 or (len(vectors) == 0 and weight is None):
        shape = tuple(vectors.shape)
        raise BadInput(f"the vectors in {where!r} have shape {shape}, needed is (length, {width}); fetch it again")
    deep = tensors.get("deep")
    if deep is not None and (deep.ndim != 3 or deep.shape[1:] != vectors.shape or not deep.numel()):
        raise BadInput(
            f"the deep vectors in {where!r} have shape {tuple(deep.shape)}, needed is (layers, "
            f"{', '.join(map(str, vectors.shape))}); fetch it again"
        )
    if (
        weight is not None
        and bias is not None
        and (weight.ndim != 2 or bias.shape != weight.shape[:1] or not weight.numel())
    ):
        raise BadInput(
            f"the head in {where!r} has shapes {tuple(weight.shape)} and {tuple(bias.shape)}; fetch it again"
        )
