"""A loaded Hugging Face model with a prompt before its input: `forward` and `generate` with all their arguments."""

from typing import Any

from torch import nn

from ..backbones.deep import layers_of
from ..backbones.family import kind_of, reading_module, refuse_lost_masks, refuse_no_model, unwrapped
from ..backbones.identity import identity_of, refuse_another_depth, refuse_another_model
from ..errors import BadInput
from ..prompts.prompt import SoftPrompt
from ._prompted import AbstractPromptedModel, PromptedEncoder, PromptedEncoderDecoder, refuse_prompted
from ._prompted_classifier import PromptedClassifier
from ._prompted_decoder import PromptedDecoder

_KINDS = {"encoder": PromptedEncoder, "encoder-decoder": PromptedEncoderDecoder, "decoder": PromptedDecoder}


def attach(prompt: SoftPrompt, model: nn.Module, *, head: bool = False) -> "AbstractPromptedModel | PromptedClassifier":
    """Put the prompt before the model's input. Weights, mode and device of the model do not change.

    Transformers' pipelines take what is returned: "text-generation" that of a decoder, "text-classification" one with
    a classification head.

    Args:
        prompt: goes with the model's word embeddings, checked by their hash; brought to their scale.
        model: an encoder-decoder, encoder or decoder that transformers loaded, also wrapped by PEFT.
        head: whether the prompt's linear head answers, with class scores; else the model does, with whatever head it
            has.

    Raises:
        BadInput: a head is asked for, and the prompt has none; or the model has a prompt already.
        ModelMismatch: the prompt was trained for another model.
        UnsupportedModel: a family that is not supported, or one whose layers a deep prompt cannot enter.
    """
    refuse_no_model(model)
    refuse_prompted(model)
    inner: Any = unwrapped(model)
    name = inner.config._name_or_path or type(inner).__name__
    kind = kind_of(inner.config, name)
    ours = identity_of(inner, name, kind)
    prompt = prompt.at_scale(ours.embedding_scale)
    refuse_another_model(prompt, ours)
    if kind == "decoder":
        refuse_lost_masks(inner, name)
    if prompt.deep is not None:
        refuse_another_depth(prompt, layers_of(reading_module(inner, kind), name, ours.embedding_size), name)
    prompted = _KINDS[kind](inner, prompt, name)
    if not head:
        return prompted
    if prompt.head is None or not isinstance(prompted, PromptedEncoder):
        raise BadInput("this prompt has no linear head; leave head out, and the model answers with its own")
    return PromptedClassifier(prompted, prompt)
