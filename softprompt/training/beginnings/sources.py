"""Stored prompts of other tasks, from which a new one begins."""

import torch

from ...backbones import AbstractBackbone
from ...errors import BadInput, ModelMismatch
from ...prompts.prompt import SoftPrompt
from ...settings import PromptSettings


def source_prompt(path: str, backbone: AbstractBackbone) -> SoftPrompt:
    """A stored prompt to start from, if it belongs to this backbone.

    Raises:
        BadInput: no prompt is stored there.
        ModelMismatch: it is of another model.
    """
    source = SoftPrompt.load(path).at_scale(backbone.embedding_scale)
    try:
        backbone.check(source)
    except ModelMismatch as error:
        # Of several sources only the path says which one it is.
        raise ModelMismatch(f"source prompt {path!r}: {error.message}") from error
    return source


def source_of_task(path: str, backbone: AbstractBackbone) -> SoftPrompt:
    """A prompt of another task that a method learns from.

    Raises:
        BadInput: it is deep, or no stored prompt.
        ModelMismatch: it is of another model.
    """
    source = source_prompt(path, backbone)
    if source.deep is not None:
        raise BadInput(f"--source={path!r} is a deep prompt, and sources stand in the first layer; give another")
    return source


def source_vectors(prompt: PromptSettings, backbone: AbstractBackbone) -> list[torch.Tensor]:
    """The vectors of the source prompts as they stand before a row.

    Raises:
        BadInput: a source is deep, or no stored prompt.
        ModelMismatch: a source of another model.
    """
    return [source_of_task(path, backbone).expanded() for path in prompt.sources]
