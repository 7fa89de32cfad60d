"""The frozen model that a stored prompt works with: the one that it names, or another that is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from ..backbones import AbstractBackbone, for_prompt, load_backbone, spec_or_backbone
from ..baselines import check
from ..errors import BadInput
from ..prompts.tuned import Stored
from ..settings import ModelSpec


def model_for(
    prompt: Stored, model: "str | Path | ModelSpec | AbstractBackbone | None", keywords: Mapping[str, Any]
) -> ModelSpec | AbstractBackbone:
    """The frozen model that a prompt is to work with: its own, unless another is given.

    Args:
        prompt: a stored prompt; how its model answers, and at which scale, is taken from it.
        model: as in `evaluate`.
        keywords: fields of ModelSpec, as in `evaluate`.

    Raises:
        UnknownName: a keyword that is no field.
        BadInput: a loaded model is not what the keywords say.
    """
    if not isinstance(prompt, Stored):
        raise BadInput(
            f"a {type(prompt).__name__} is no stored prompt; give run.prompt(0) of a run, or "
            "softprompt.load_prompt(path) of a folder"
        )
    spec = spec_or_backbone("" if model is None else model, keywords)
    if isinstance(spec, AbstractBackbone):
        return spec
    origin, answers = prompt.provenance.backbone, prompt.provenance.answers
    default = ModelSpec(origin.name, revision=origin.revision, answers=answers, embedding_scale=origin.embedding_scale)
    return for_prompt(spec, default)


def backbone_of(
    prompt: Stored, model: "str | Path | ModelSpec | AbstractBackbone | None" = None, **keywords: Any
) -> AbstractBackbone:
    """The frozen model a prompt works with, checked against it.

    Args:
        prompt: a stored prompt.
        model: as in `evaluate`.
        keywords: fields of ModelSpec, as in `evaluate`.

    Raises:
        ModelMismatch: the prompt belongs to another model.
        BadInput: a loaded model is not what the keywords say.
    """
    spec = model_for(prompt, model, keywords)
    backbone = spec if isinstance(spec, AbstractBackbone) else load_backbone(spec)
    check(prompt, backbone)
    return backbone


@final
class LoadedModels:
    """The frozen models of several prompts, each loaded once.

    Args:
        model: as in `evaluate`, for every prompt.
        keywords: fields of ModelSpec, as in `evaluate`.
    """

    def __init__(self, model: "str | Path | ModelSpec | AbstractBackbone | None" = None, **keywords: Any):
        self.model, self.keywords = model, keywords
        self._loaded: dict[ModelSpec | AbstractBackbone, AbstractBackbone] = {}

    def of(self, prompt: Stored) -> AbstractBackbone:
        """The model of a prompt, checked against it.

        Raises:
            ModelMismatch: the prompt belongs to another model.
            BadInput: a loaded model is not what the keywords say.
        """
        wanted = model_for(prompt, self.model, self.keywords)
        self._loaded[wanted] = backbone_of(prompt, self._loaded.get(wanted, wanted))
        return self._loaded[wanted]
