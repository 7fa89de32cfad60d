"""How a model answers with a number, where nobody says."""

import dataclasses

from ..settings import ModelSpec
from ._names import refuse_no_folder, source_of
from ._read import read_configuration, silence
from .family import kind_of


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
    refuse_no_folder(spec.name)
    with silence():
        config = read_configuration(source_of(spec.name), spec.revision)
    is_encoder = kind_of(config, spec.name) == "encoder"
    return dataclasses.replace(spec, answers="linear-head") if is_encoder else spec
