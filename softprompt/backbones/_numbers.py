"""How a model of a name answers with a number where nobody says, and of which kind it is; from its configuration."""

import dataclasses

from ..errors import BadInput
from ..settings import ModelSpec
from ._names import refuse_no_folder, source_of
from ._read import read_configuration, silence
from .family import Kind, kind_of


def answering_numbers(spec: ModelSpec) -> ModelSpec:
    """The spec as it is; with answers "auto", an encoder answers by a linear head, whatever head its checkpoint has.

    Args:
        spec: a model that is to answer with numbers.

    Raises:
        BadInput: no such model.
        UnsupportedModel: a family that is not supported.
    """
    if spec.answers != "auto":
        return spec
    return dataclasses.replace(spec, answers="linear-head") if kind_of_spec(spec) == "encoder" else spec


def kind_here(name: str) -> Kind | None:
    """The kind of a model whose configuration is on this machine; None where it is not.

    Args:
        name: of the model.

    Raises:
        UnsupportedModel: a family that is not supported.
    """
    try:
        return kind_of_spec(ModelSpec(name), only_here=True)
    except BadInput:
        return None


def kind_of_spec(spec: ModelSpec, *, only_here: bool = False) -> Kind:
    """The kind of a model, from its configuration alone.

    Args:
        spec: the model.
        only_here: whether no hub is asked for the configuration.

    Raises:
        BadInput: no such model.
        UnsupportedModel: a family that is not supported.
    """
    refuse_no_folder(spec.name)
    with silence():
        config = read_configuration(source_of(spec.name), spec.revision, only_here=only_here)
    return kind_of(config, spec.name)
