"""One place for what describes a frozen model: from keywords to a `ModelSpec`, and a loaded backbone against one."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput, ModelMismatch, UnknownName
from ..settings import ModelSpec
from ._names import model_name
from .base import AbstractBackbone

FIELDS = tuple(field.name for field in dataclasses.fields(ModelSpec) if field.name != "name")
# Fields of which each changes what a model computes; name, revision and device say where it is.
_COMPUTED = ("dtype", "answers", "engine", "quantize", "embedding_scale")


def model_spec(model: str | Path | ModelSpec, keywords: Mapping[str, Any]) -> ModelSpec:
    """The spec of a model that is given by its name and keywords, or as a spec.

    Args:
        model: a name, a folder, or a spec.
        keywords: fields of ModelSpec; None is a field that is not given.

    Raises:
        UnknownName: a keyword that is no field, with the nearest.
        BadInput: keywords beside a spec, or something that is no name.
    """
    for name in keywords:
        if name not in FIELDS:
            raise UnknownName("keyword of a model", name, FIELDS)
    given = {name: value for name, value in keywords.items() if value is not None}
    if not isinstance(model, ModelSpec):
        return ModelSpec(model_name(model), **given)
    if given:
        raise BadInput(f"{next(iter(given))} belongs to the ModelSpec; give it there, or the model's name in its place")
    return dataclasses.replace(model, name=model_name(model.name))


def spec_or_backbone(
    model: str | Path | ModelSpec | AbstractBackbone, keywords: Mapping[str, Any]
) -> ModelSpec | AbstractBackbone:
    """A loaded backbone as it is, else the spec of the model.

    Args:
        model: a name, a folder, a spec, or a loaded backbone.
        keywords: as in `model_spec`; of a loaded backbone they have to say what it is.

    Raises:
        BadInput: a loaded backbone is not what the keywords say.
    """
    if not isinstance(model, AbstractBackbone):
        return model_spec(model, keywords)
    given = {name: value for name, value in keywords.items() if value is not None}
    if unlike := _difference(given, model):
        raise BadInput(f"{unlike[0]}, but {model.name!r} was loaded with {unlike[1]}; give it to load_backbone")
    return model


def for_prompt(spec: ModelSpec, origin: ModelSpec) -> ModelSpec:
    """The spec with what a stored prompt needs of its model, where the spec does not say it.

    Args:
        spec: of `model_spec`; without a name it is the prompt's own model.
        origin: the model that the prompt was trained on.
    """
    default = ModelSpec()
    needed = ("answers", "embedding_scale") if spec.name else ("answers", "embedding_scale", "name", "revision")
    missing = [name for name in needed if getattr(spec, name) == getattr(default, name)]
    return dataclasses.replace(spec, **{name: getattr(origin, name) for name in missing})


def refuse_other_backbone(spec: ModelSpec, backbone: AbstractBackbone, folder: Path) -> None:
    """Refuse to go on with a model that computes otherwise than the one that a run was started with.

    Args:
        spec: what the run records.
        backbone: the model to go on with.
        folder: the run's.

    Raises:
        ModelMismatch: another precision, kind of answers, engine, form of the weights or embedding scale.
    """
    if unlike := _difference({name: getattr(spec, name) for name in _COMPUTED}, backbone):
        raise ModelMismatch(
            f"{folder} was started with {unlike[0]}, {backbone.name!r} was loaded with {unlike[1]}; "
            "load it as the run began"
        )


def _difference(wanted: Mapping[str, Any], backbone: AbstractBackbone) -> tuple[str, str] | None:
    """The first field in which a backbone is not what is wanted, with both values; "auto" wants nothing."""
    for name, value in wanted.items():
        actual = getattr(backbone.spec, name)
        # "cuda" is "cuda:0" once it is loaded.
        same = str(actual).startswith(value) if name == "device" else actual == value
        if value != "auto" and not same:
            return _spelled(name, value), _spelled(name, actual)
    return None


def _spelled(name: str, value: Any) -> str:
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value!r}"
