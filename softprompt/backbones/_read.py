"""What a folder or the hub holds of a model, read by transformers: configuration, tokenizer, weights."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import BadInput, UnsupportedModel
from ._fit import LOADING, first_line, why_not_loaded
from .family import Kind

# Any of these in a folder is a tokenizer; without one transformers would make up an empty tokenizer.
_TOKENIZERS = (
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
)

_ONE_AT_A_TIME = threading.RLock()


def read_language_model(kind: Kind, name: str, options: dict[str, Any]) -> nn.Module:
    """The model with its language-model head, all of it from the checkpoint."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto = AutoModelForSeq2SeqLM if kind == "encoder-decoder" else AutoModelForCausalLM
    model, missing = _weights(auto, name, options)
    _refuse_missing(name, missing)
    return model


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


def read_configuration(name: str, revision: str | None, *, only_here: bool = False) -> Any:
    """The model's configuration; `only_here` asks no hub for it."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False, local_files_only=only_here)
    except (ValueError, StrictDataclassError, LookupError, TypeError, AttributeError, RecursionError) as error:
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


@contextmanager
def silence() -> Iterator[None]:
    """Within, no progress bars and no loading reports of transformers; its settings are restored. One thread at a time.

    While transformers loads a model it replaces functions of its own for the whole process. Of two loads that overlap,
    the second puts back what the first had put there, and every later model of the process lacks its tied weights.
    """
    from transformers.utils import logging

    with _ONE_AT_A_TIME:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
