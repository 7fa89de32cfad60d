"""Prompts and trained weights of other tools, whatever file they are in: PEFT's folders, and arrays of numpy."""

import dataclasses
from pathlib import Path

from ..backbones import for_prompt, kind_here, load_backbone
from ..baselines import READ_FROM_PEFT, load_peft, provenance_of
from ..errors import BadInput
from ..prompts.prompt import SoftPrompt
from ..prompts.tuned import Stored, TunedWeights
from ..settings import ModelSpec
from ..store import read_json
from .numpy import import_numpy
from .peft import CONFIG, import_peft


def import_stored(path: str | Path, model: str | None = None, kind: str | None = None) -> Stored:
    """A prompt, or trained weights, from a folder of PEFT or a `.npy` file.

    Of PEFT's trained weights, LoRA and (IA)3 can be read; their model is loaded.

    Args:
        path: the folder or file.
        model: hub id or folder of the frozen model; a folder of PEFT mostly names its own, a file of numpy none.
        kind: of the model, where neither a folder of PEFT nor a model that is here says it: "encoder-decoder",
            "encoder" or "decoder"; None is encoder-decoder for a `.npy` file.

    Raises:
        BadInput: nothing is there or it cannot be read, no model is known, or `model` or `kind` contradict the file.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"{path} does not exist; give a PEFT folder or a .npy file")
    if not path.is_dir():
        if model is None:
            raise BadInput(f"{path} does not say which model it belongs to; name it with --model")
        return import_numpy(path, backbone_name=model, kind=_kind(model, kind))
    weights = _weights(path, model)
    return _prompt(path, model, kind) if weights is None else weights


def _kind(model: str, given: str | None) -> str:
    """The kind of a .npy prompt's model: what its configuration says, where that is here."""
    known = kind_here(model)
    if None not in (known, given) and known != given:
        raise BadInput(f"the model {model!r} is of kind {known}, not {given}; leave --kind out")
    return known or given or "encoder-decoder"


def _weights(folder: Path, model: str | None) -> TunedWeights | None:
    """The trained weights in a folder of PEFT, read for the model that is given or that it names; None of a prompt."""
    if not (folder / CONFIG).is_file():
        return None
    config = read_json(folder / CONFIG)
    if str(config.get("peft_type")) not in READ_FROM_PEFT:
        return None
    name = model or config.get("base_model_name_or_path")
    if not name:
        raise BadInput(f"{folder} does not say which model its weights belong to; name it with --model")
    spec, ours = ModelSpec(name), provenance_of(folder)
    if ours is not None:
        origin = ours.backbone
        spec = for_prompt(spec, ModelSpec(answers=ours.answers, embedding_scale=origin.embedding_scale))
        if name == origin.name:
            spec = dataclasses.replace(spec, revision=origin.revision)
    return load_peft(folder, load_backbone(spec))


def _prompt(folder: Path, model: str | None, kind: str | None) -> SoftPrompt:
    """The prompt in a folder of PEFT, for the model that it names or, where it names none, the one that is given."""
    prompt = import_peft(folder, model=model, kind=kind)
    named = prompt.provenance.backbone
    if model not in (None, named.name) or kind not in (None, named.kind):
        raise BadInput(
            f"the prompt in {folder} is of {named.name!r} ({named.kind}), as it says itself; leave --model and "
            "--kind out"
        )
    return prompt
