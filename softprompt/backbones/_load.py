"""From a name or a loaded model to a frozen backbone that can answer, or one clear line why not."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..builtin import BUILT_IN, folder_of
from ..errors import BadInput, UnknownName, UnsupportedModel, pick
from ..prompts.prompt import refuse_no_scale
from ._fit import LOADING, first_line, refuse_unfit, why_not_loaded
from ._names import lasting_name, model_name, refuse_no_folder
from .base import AbstractBackbone, Answers
from .decoder import DecoderBackbone
from .encoder import EncoderBackbone
from .encoder_decoder import EncoderDecoderBackbone
from .family import KINDS, Kind, kind_of, unwrapped
from .rescale.scale import scale_embeddings, scaling_of
from .rescale.verify import verify

log = logging.getLogger("softprompt")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_ENGINES = ("auto", "packed", "reference")
_QUANTIZED = ("int8",)
_ANSWERS = ("auto", "tokens", "chat", "label-words", "linear-head")
# Any of these in a folder is a tokenizer; without one transformers would make up an empty tokenizer.
_TOKENIZERS = (
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
)


def load_backbone(
    name_or_path: str | Path,
    *,
    answers: str = "auto",
    dtype: str = "float32",
    device: str = "auto",
    revision: str | None = None,
    embedding_scale: float = 1.0,
    engine: str = "auto",
    quantize: str | None = None,
) -> AbstractBackbone:
    """A frozen backbone: one that softprompt brings, or from a local folder or the hub.

    Args:
        name_or_path: a name in `BUILT_IN` ("lab-t5" ...), folder that `save_pretrained` wrote, or hub id. A folder
            here that is called like a built-in backbone is given as "./lab-t5".
        answers: "tokens" ((encoder-)decoder), "chat" (a decoder with a chat template), "label-words" or "linear-head"
            (encoder); "auto" takes tokens, or label words if the checkpoint's weights include a masked-LM head, for
            transformers would make up a random one in silence.
        dtype: "float32", "bfloat16" or "float64".
        device: "cpu", "cuda", "cuda:1" ...; "auto" is the GPU if there is one.
        revision: commit, branch or tag on the hub.
        embedding_scale: factor on the checkpoint's word embeddings; what the model computes stays unchanged, and a
            prompt for it is as many times larger (`scale_embeddings`).
        engine: "packed" (T5, T5 v1.1, FLAN and mT5: rows without padding, see `PackedT5`), "reference" (transformers'
            own passes), or "auto": packed where the model can be.
        quantize: "int8" computes the linear layers below the head in 8 bits: faster, and approximate. It takes a CPU
            with AVX512-VNNI and float32 weights. None computes all in `dtype`.

    Raises:
        BadInput: no such folder or hub id, no tokenizer, an unreadable checkpoint, no such device, a scale that is
            not positive and finite.
        UnsupportedModel: float16, a family that is not supported, missing weights, no head for these answers,
            embeddings that cannot be rescaled, or no int8 for this machine or model.
        UnknownName: a dtype, a kind of answer, of weights, an engine or a built-in backbone that does not exist.
        DamagedFile: a built-in backbone's file that is not as it was shipped.
    """
    name = model_name(name_or_path)
    refuse_no_scale(embedding_scale)
    precision, place = _precision(dtype, name), device_of(device)
    _refuse_other_answers(answers)
    _refuse_other_engines(engine)
    _refuse_other_quantization(quantize)
    refuse_no_folder(name)
    # A built-in backbone keeps its name in messages and records: where it is installed differs between machines.
    source = str(folder_of(name)) if name in BUILT_IN else name
    with silence():
        config = read_configuration(source, revision)
        kind = kind_of(config, name)
        tokenizer = read_tokenizer(source, revision)
        options: dict[str, Any] = {"dtype": precision, "revision": revision}
        if getattr(config, "quantization_config", None) is not None:
            # Quantised weights cannot be moved once they are loaded.
            options["device_map"] = {"": place}
        if kind != "encoder":
            model = _language_model(kind, source, options)
        else:
            model, answers = _encoder(source, options, answers)
    if "device_map" not in options:
        model = model.to(place)
    scale_embeddings(model, embedding_scale, name=name)
    return _in(quantize, _backbone(model, tokenizer, lasting_name(name), answers, revision, engine))


def from_model(
    model: nn.Module,
    tokenizer: Any,
    *,
    name: str | None = None,
    answers: str = "auto",
    embedding_scale: float | None = None,
    engine: str = "auto",
    quantize: str | None = None,
) -> AbstractBackbone:
    """A backbone of a model that is already loaded, also quantised or wrapped by PEFT. It is frozen in place.

    Args:
        model: what transformers loaded. A masked-LM head is taken at its word: only its checkpoint could tell whether
            it was trained (`load_backbone` looks).
        tokenizer: its tokenizer.
        name: for messages and records; None takes what the model says.
        answers: as in `load_backbone`.
        embedding_scale: as in `load_backbone`, over what the model had when it was loaded: rescaled in place if it is
            at another scale. None takes it as it is.
        engine: as in `load_backbone`.
        quantize: as in `load_backbone`: the model's layers are replaced. None takes them as they are.

    Raises:
        UnsupportedModel: float16, a family that is not supported, no head for these answers, embeddings that
            cannot be rescaled, or no int8 for this machine or model.
        BadInput: a tokenizer of another model, or a scale that is not positive and finite.
        UnknownName: a kind of answer, of weights or an engine that does not exist.
    """
    inner: Any = unwrapped(model)
    label = lasting_name(name or inner.config._name_or_path or type(inner).__name__)
    _refuse_other_answers(answers)
    _refuse_other_engines(engine)
    _refuse_other_quantization(quantize)
    if kind_of(inner.config, label) == "encoder" and answers == "auto":
        answers = "label-words" if inner.get_output_embeddings() is not None else "linear-head"
    backbone = _backbone(inner, tokenizer, label, answers, None, engine)
    if embedding_scale is not None:
        refuse_no_scale(embedding_scale)
        scale_embeddings(inner, embedding_scale / scaling_of(inner).factor, name=label)
    return _in(quantize, backbone)


def _in(quantize: str | None, backbone: AbstractBackbone) -> AbstractBackbone:
    """The backbone with its weights in that form; last, because other steps need them as they were loaded."""
    if quantize == "int8":
        backbone.to_int8()
    return backbone


def _backbone(
    model: Any, tokenizer: Any, name: str, answers: str, revision: str | None, engine: str
) -> AbstractBackbone:
    """The class for the model's kind."""
    kind = kind_of(model.config, name)
    refuse_unfit(model, kind, name)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise BadInput(
            f"the tokenizer has {len(tokenizer)} tokens, {name!r} has embeddings for {rows}; "
            "give the tokenizer of this model"
        )
    if engine == "packed" and kind != "encoder-decoder":
        raise UnsupportedModel(f"{name!r} ({kind}) has no packed passes, only a T5 has; leave --engine=packed out")
    if kind != "encoder":
        if answers not in ("auto", "tokens") and not (kind == "decoder" and answers == "chat"):
            raise UnsupportedModel(f"{name!r} ({kind}) answers in tokens, not by {answers}")
        if kind == "encoder-decoder":
            backbone: AbstractBackbone = EncoderDecoderBackbone(model, tokenizer, name, revision, engine=engine)
        else:
            backbone = DecoderBackbone(model, tokenizer, name, revision, chat=answers == "chat")
    elif answers in ("tokens", "chat"):
        raise UnsupportedModel(f"{name!r} is an encoder and generates no tokens; choose label-words or linear-head")
    else:
        by: Answers = "label-words" if answers == "label-words" else "linear-head"
        backbone = EncoderBackbone(model, tokenizer, name, revision, answers=by)
    if model.config.model_type not in KINDS:
        verify(backbone)
    return backbone


def _language_model(kind: Kind, name: str, options: dict[str, Any]) -> nn.Module:
    """The model with its language-model head, all of it from the checkpoint."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto = AutoModelForSeq2SeqLM if kind == "encoder-decoder" else AutoModelForCausalLM
    model, missing = _weights(auto, name, options)
    _refuse_missing(name, missing)
    return model


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


def read_encoder(name: str, options: dict[str, Any]) -> tuple[Any, list[str]]:
    """The encoder under a masked-LM head, all of it from the checkpoint but for those keys of the head."""
    from transformers import AutoModelForMaskedLM

    model, missing = _weights(AutoModelForMaskedLM, name, options)
    below = f"{model.base_model_prefix}."
    _refuse_missing(name, [key for key in missing if key.startswith(below)])
    return model, missing


def _refuse_missing(name: str, missing: Sequence[str]) -> None:
    """Refuse a checkpoint without weights that transformers would fill at random."""
    if missing:
        raise UnsupportedModel(
            f"the checkpoint of {name!r} lacks {len(missing)} weights of its architecture ({missing[0]} ...); "
            "random ones would take their place"
        )


def _weights(auto: Any, name: str, options: dict[str, Any]) -> tuple[Any, list[str]]:
    """The model, and the keys that its checkpoint lacks (a tied weight is not lacking)."""
    try:
        model, report = auto.from_pretrained(name, output_loading_info=True, trust_remote_code=False, **options)
    except LOADING as error:
        raise BadInput(f"the weights of {name!r} cannot be loaded: {why_not_loaded(error)}") from error
    return model, sorted(report["missing_keys"])


def read_configuration(name: str, revision: str | None) -> Any:
    """The model's configuration."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (ValueError, StrictDataclassError, LookupError, TypeError, AttributeError) as error:
        if not isinstance(error, ValueError) or not re.search("model.type", str(error)):
            raise BadInput(f"the configuration of {name!r} is faulty: {' '.join(str(error).split())}") from error
        raise UnsupportedModel(f"{name!r} is of no family that transformers knows: {first_line(error)}") from error
    except OSError as error:
        if Path(name).is_dir():
            raise BadInput(f"the configuration of {name!r} cannot be read: {first_line(error)}") from error
        raise BadInput(f"{name!r} is neither a folder here nor a model on the hub: {first_line(error)}") from error


def read_tokenizer(name: str, revision: str | None) -> Any:
    """The tokenizer beside the model."""
    from transformers import AutoTokenizer

    folder = Path(name)
    if folder.is_dir() and not any((folder / file).exists() for file in _TOKENIZERS):
        raise BadInput(f"{name!r} holds no tokenizer; save it beside the model (tokenizer.save_pretrained)")
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    # The library of tokenizers raises plain exceptions for files that it cannot read.
    except Exception as error:
        raise BadInput(f"the tokenizer of {name!r} cannot be loaded: {first_line(error)}") from error


def _refuse_other_answers(answers: str) -> None:
    """Refuse a kind of answer that does not exist."""
    if answers not in _ANSWERS:
        raise UnknownName("kind of answer", answers, _ANSWERS)


def _refuse_other_engines(engine: str) -> None:
    """Refuse an engine that does not exist."""
    if engine not in _ENGINES:
        raise UnknownName("engine", engine, _ENGINES)


def _refuse_other_quantization(quantize: str | None) -> None:
    """Refuse a kind of frozen weights that does not exist."""
    if quantize is not None and quantize not in _QUANTIZED:
        raise UnknownName("kind of frozen weights", quantize, _QUANTIZED)


def _precision(dtype: str, name: str) -> torch.dtype:
    """The dtype of this name."""
    if dtype in ("float16", "fp16", "half"):
        raise UnsupportedModel(
            f"float16 is refused for {name!r}: an EPT prompt's norm exceeds its largest number (65504); "
            "choose bfloat16 or float32"
        )
    return pick("dtype", dtype, _DTYPES)


def device_of(device: str) -> torch.device:
    """The device of this name."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = _devices_here()
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"--device {device!r} is none of this machine's; give {here}") from error
    if place.type == "meta":
        raise BadInput(f"--device {device!r} holds no numbers; give {here}")
    return place


def _devices_here() -> str:
    """The devices of this machine in words."""
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ", ".join(["auto", "cpu", *cuda, *mps]) + ("" if cuda else " (it has no CUDA device)")


@contextmanager
def silence() -> Iterator[None]:
    """Within, no progress bars and no loading reports of transformers; its settings are restored."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
