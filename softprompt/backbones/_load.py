"""From a name or a loaded model to a frozen backbone that can answer, or one clear line why not."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BadInput, UnsupportedModel
from ..settings import ModelSpec
from ._device import SPREAD, device_of
from ._fit import refuse_unfit
from ._names import lasting_name, refuse_no_folder, source_of
from ._numbers import answering_numbers
from ._read import read_configuration, read_encoder, read_language_model, read_tokenizer, silence
from .base import AbstractBackbone, Answers
from .decoder import DecoderBackbone
from .encoder import EncoderBackbone
from .encoder_decoder import EncoderDecoderBackbone
from .family import KINDS, kind_of, refuse_no_model, unwrapped
from .rescale.scale import scale_embeddings, scaling_of
from .rescale.verify import verify
from .spec import model_spec, spec_or_backbone

log = logging.getLogger("softprompt")


def load_backbone(name_or_path: str | Path | ModelSpec, **keywords: Any) -> AbstractBackbone:
    """A frozen backbone: one that softprompt brings, or from a local folder, a GGUF file or the hub.

        load_backbone("google-t5/t5-small", dtype="bfloat16")
        load_backbone(ModelSpec("google-t5/t5-small", dtype="bfloat16"))

    Args:
        name_or_path: a name in `BUILT_IN` ("lab-t5" ...), folder that `save_pretrained` wrote, or hub id. A folder
            here that is called like a built-in backbone is given as "./lab-t5". Or a `ModelSpec`.
        keywords: the other fields of `ModelSpec`, where none is given. "auto" answers by tokens; an encoder by label
            words if the checkpoint's weights include a masked-LM head, for transformers would make up a random one in
            silence, else by a linear head. The engine "packed" computes rows without padding, of T5, T5 v1.1, FLAN and
            mT5 (see `PackedT5`), of encoders and BART (see `RowPasses`), "shared" a decoder's prompts once a pass (see
            `SharedPasses`), "reference" is transformers' own passes.

    Raises:
        BadInput: no such folder or hub id, no tokenizer, an unreadable checkpoint, no such device, a scale that is
            not positive and finite.
        UnsupportedModel: float16, a family that is not supported, missing weights, no head for these answers,
            embeddings that cannot be rescaled, or no int8 for this machine or model.
        UnknownName: a keyword, a dtype, a kind of answer, of weights, an engine or a built-in backbone that does not
            exist.
        DamagedFile: a built-in backbone's file that is not as it was shipped.
    """
    spec = _spread(model_spec(name_or_path, keywords))
    name, place = spec.name, device_of(spec.device)
    refuse_no_folder(name)
    # A built-in backbone keeps its name in messages and records: where it is installed differs between machines.
    source, answers = source_of(name), spec.answers
    with silence():
        config = read_configuration(source, spec.revision)
        kind = kind_of(config, name)
        tokenizer = read_tokenizer(source, spec.revision)
        options: dict[str, Any] = {"dtype": getattr(torch, spec.dtype), "revision": spec.revision}
        if getattr(config, "quantization_config", None) is not None:
            # Quantised weights cannot be moved once they are loaded.
            options["device_map"] = {"": place}
        if spec.device == SPREAD:
            options["device_map"] = "auto"
        if kind != "encoder":
            model = read_language_model(kind, source, options)
        else:
            model, answers = _encoder(source, options, answers)
    if "device_map" not in options:
        model = model.to(place)
    scale_embeddings(model, spec.embedding_scale, name=name)
    named = dataclasses.replace(spec, name=lasting_name(name), answers=answers)
    return _in(spec.quantize, _backbone(model, tokenizer, named))


def _spread(spec: ModelSpec) -> ModelSpec:
    """The spec as it is; of a model that is spread over devices, with the engine that can compute so.

    Raises:
        UnsupportedModel: another engine or int8, which read weights where they are and not where they are needed.
    """
    if spec.device != SPREAD:
        return spec
    if spec.engine not in ("auto", "reference") or spec.quantize is not None:
        raise UnsupportedModel(
            f"a model that is spread over devices computes by --engine=reference alone, not by {spec.engine}"
            f"{'' if spec.quantize is None else f' in {spec.quantize}'}; leave it out"
        )
    return dataclasses.replace(spec, engine="reference")


def load_for(model: ModelSpec | AbstractBackbone, answer: str) -> AbstractBackbone:
    """The backbone that is given, or one that is loaded to answer so; errors as in `load_backbone`.

    Args:
        model: its spec, or loaded.
        answer: of the task, "label", "number" or "text". An encoder gives numbers by a linear head.
    """
    if isinstance(model, AbstractBackbone):
        return model
    return load_backbone(answering_numbers(model) if answer == "number" else model)


def from_model(model: nn.Module, tokenizer: Any, *, name: str | None = None, **keywords: Any) -> AbstractBackbone:
    """A backbone of a model that is already loaded, also quantised or wrapped by PEFT. It is frozen in place.

    Args:
        model: what transformers loaded. A masked-LM head is taken at its word: only its checkpoint could tell whether
            it was trained (`load_backbone` looks).
        tokenizer: its tokenizer.
        name: for messages and records; None takes what the model says.
        keywords: fields of `ModelSpec`. `answers` and `engine` as in `load_backbone`. `quantize` replaces the model's
            layers. `embedding_scale` is over what the model had when it was loaded: it is rescaled in place if it is
            at another scale; left out, the model stays as it is. `dtype` and `device` are the model's own.

    Raises:
        UnsupportedModel: float16, a family that is not supported, no head for these answers, embeddings that
            cannot be rescaled, or no int8 for this machine or model.
        BadInput: a tokenizer of another model, a scale that is not positive and finite, or a dtype or device that is
            not the model's.
        UnknownName: a keyword, a kind of answer, of weights or an engine that does not exist.
    """
    refuse_no_model(model)
    if not callable(tokenizer):
        raise BadInput(f"a {type(tokenizer).__name__} is no tokenizer; give the model's, as AutoTokenizer loads it")
    inner: Any = unwrapped(model)
    label = lasting_name(name or inner.config._name_or_path or type(inner).__name__)
    spec = dataclasses.replace(model_spec(label, keywords), name=label)
    if kind_of(inner.config, label) == "encoder" and spec.answers == "auto":
        spec = dataclasses.replace(
            spec, answers="label-words" if inner.get_output_embeddings() is not None else "linear-head"
        )
    backbone = _backbone(inner, tokenizer, spec)
    spec_or_backbone(backbone, {key: keywords[key] for key in ("dtype", "device") if key in keywords})
    if keywords.get("embedding_scale") is not None:
        scale_embeddings(inner, spec.embedding_scale / scaling_of(inner).factor, name=label)
    return _in(spec.quantize, backbone)


def _in(quantize: str | None, backbone: AbstractBackbone) -> AbstractBackbone:
    """The backbone with its weights in that form; last, because other steps need them as they were loaded."""
    if quantize == "int8":
        backbone.to_int8()
    return backbone


def _backbone(model: Any, tokenizer: Any, spec: ModelSpec) -> AbstractBackbone:
    """The class for the model's kind."""
    name, revision, answers = spec.name, spec.revision, spec.answers
    kind = kind_of(model.config, name)
    refuse_unfit(model, kind, name)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise BadInput(
            f"the tokenizer has {len(tokenizer)} tokens, {name!r} has embeddings for {rows}; "
            "give the tokenizer of this model"
        )
    if spec.engine == "packed" and kind == "decoder":
        raise UnsupportedModel(
            f"{name!r} ({kind}) has no packed passes, only encoders and encoder-decoders have; "
            "leave --engine=packed out"
        )
    if spec.engine == "shared" and kind != "decoder":
        raise UnsupportedModel(f"{name!r} ({kind}) shares no prompt, only a decoder does; leave --engine=shared out")
    if kind != "encoder":
        if answers not in ("auto", "tokens") and not (kind == "decoder" and answers == "chat"):
            raise UnsupportedModel(f"{name!r} ({kind}) answers in tokens, not by {answers}")
        if kind == "encoder-decoder":
            backbone: AbstractBackbone = EncoderDecoderBackbone(model, tokenizer, name, revision, engine=spec.engine)
        else:
            backbone = DecoderBackbone(model, tokenizer, name, revision, chat=answers == "chat", engine=spec.engine)
    elif answers in ("tokens", "chat"):
        raise UnsupportedModel(f"{name!r} is an encoder and generates no tokens; choose label-words or linear-head")
    else:
        by: Answers = "label-words" if answers == "label-words" else "linear-head"
        backbone = EncoderBackbone(model, tokenizer, name, revision, answers=by, engine=spec.engine)
    if model.config.model_type not in KINDS:
        verify(backbone)
    return backbone


def _encoder(name: str, options: dict[str, Any], answers: str) -> tuple[nn.Module, str]:
    """The encoder with its masked-LM head if the checkpoint holds one, and how it will answer."""
    model, missing = read_encoder(name, options)
    if answers == "auto":
        answers = "linear-head" if missing else "label-words"
    if answers == "label-words" and missing:
        raise UnsupportedModel(
            f"the checkpoint of {name!r} holds no masked-LM head (no {missing[0]}); give "
            "--answers=linear-head, or give it a head (softprompt lab mlm-head)"
        )
    return (model if answers == "label-words" else model.base_model), answers
