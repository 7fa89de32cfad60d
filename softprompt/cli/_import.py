"""`softprompt import`: store a prompt, or trained weights, of another tool."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import BadInput
from .options import NewFolder

if TYPE_CHECKING:
    from ..prompts.tuned import TunedWeights


def import_(
    source: Annotated[Path, typer.Argument(metavar="PATH", help="PEFT folder, or .npy file of prompt vectors.")],
    *,
    output: NewFolder,
    model: Annotated[
        str | None,
        typer.Option(help="Frozen model of a .npy prompt or of trained weights: hub id or folder."),
    ] = None,
    kind: Annotated[
        Literal["encoder-decoder", "encoder", "decoder"] | None,
        typer.Option(
            help="Kind of the model of a .npy prompt. Default: as a model that is here says, else encoder-decoder."
        ),
    ] = None,
) -> None:
    """Store a prompt from a PEFT folder or a numpy file, for `evaluate` and `predict`.

    Of PEFT's trained weights, LoRA and (IA)3 can be read; their model is loaded.
    """
    if not source.exists():
        raise BadInput(f"{source} does not exist; give a PEFT folder or a .npy file")
    if source.is_dir() and (weights := _weights(source, model)) is not None:
        from ..store import save_tuned

        print(save_tuned(weights, output))
        return
    if source.is_dir():
        from ..interop.peft import import_peft

        prompt = import_peft(source)
        named = prompt.provenance.backbone
        if model not in (None, named.name) or kind not in (None, named.kind):
            raise BadInput(
                f"the prompt in {source} is of {named.name!r} ({named.kind}), as it says itself; leave --model and "
                "--kind out"
            )
    else:
        if model is None:
            raise BadInput(f"{source} does not say which model it belongs to; name it with --model")
        from ..interop.numpy import import_numpy

        prompt = import_numpy(source, backbone_name=model, kind=_kind(model, kind))
    print(prompt.save(output))


def _kind(model: str, given: str | None) -> str:
    """The kind of a .npy prompt's model: what its configuration says, where that is here."""
    from ..backbones import kind_here

    known = kind_here(model)
    if None not in (known, given) and known != given:
        raise BadInput(f"the model {model!r} is of kind {known}, not {given}; leave --kind out")
    return known or given or "encoder-decoder"


def _weights(folder: Path, model: str | None) -> "TunedWeights | None":
    """The trained weights in a folder of PEFT, read for the model that is given or that it names; None of a prompt."""
    from ..backbones import for_prompt, load_backbone
    from ..baselines import READ_FROM_PEFT, load_peft, provenance_of
    from ..settings import ModelSpec
    from ..store import read_json

    if not (folder / "adapter_config.json").is_file():
        return None
    config = read_json(folder / "adapter_config.json")
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
