"""What a prompt needs of a model before the first pass: weights, vectors for words, and layers that read vectors.

A family that lacks one of them is refused here, in words; what only a pass can show is left to `verify`.
"""

import inspect
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import SoftPromptError, UnsupportedModel
from .family import reading_module, text_config

# What errors of Python and torch say where a family does not take a prompt, and what that means.
_MEANINGS = (
    (r"'Seen'", "its attention is its own, not one that transformers lets others replace"),
    (r"input_ids|NoneType", "it reads token ids, and not word vectors in their place"),
    (r"inputs_embeds", "it takes no word vectors in the place of token ids"),
    (r"position_ids", "it does not let positions be counted over prompt and text"),
    (r"past_key_values|get_seq_length|cache", "it keeps no cache from which an answer could go on"),
    (r"last_hidden_state", "its layers below the head do not give their last states"),
    (r"index out of range", "prompt and text need more positions than it has, or token ids that it does not know"),
    (r"size of tensor|shape|mat1 and mat2", "its layers do not fit together once a prompt stands before the text"),
)


def cause_of(error: BaseException) -> str:
    """Why a model fails, in words: errors of Python and torch name variables of code that no user has seen.

    Args:
        error: what a pass of the model raised; a sentence of this package stays as it is.
    """
    message = first_line(error)
    if isinstance(error, SoftPromptError):
        return message
    meaning = next((words for pattern, words in _MEANINGS if re.search(pattern, message)), "its own code fails")
    return f"{meaning} ({type(error).__name__}{_place_of(error)})"


# What reading weights raises: where the file is damaged, a pickle, or not this model's.
LOADING = (
    OSError, ValueError, RuntimeError, ImportError, SafetensorError, UnpicklingError,
    LookupError, TypeError, AttributeError, EOFError, AssertionError,
)  # fmt: skip


def why_not_loaded(error: BaseException) -> str:
    """Why weights cannot be loaded, in words and one line.

    Args:
        error: one of `LOADING`.
    """
    if isinstance(error, UnpicklingError):
        return (
            "they are a pickle that holds more than tensors and could run code; nothing of it was run. Where you trust "
            "it, load it there and write it as safetensors (model.save_pretrained)"
        )
    if "ignore_mismatched_sizes" in str(error):
        return "they are of other shapes than the configuration says"
    if isinstance(error, LookupError | TypeError | AttributeError | EOFError | AssertionError):
        return f"their file is damaged, or holds something else than this model's tensors: {cause_of(error)}"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of a message, the kind of error where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _place_of(error: BaseException) -> str:
    """The file that raised it, by which a report to transformers could be made."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" in {Path(trace.tb_frame.f_code.co_filename).name}"


def refuse_unfit(model: Any, kind: str, name: str) -> None:
    """Refuse a family that gives no word vectors, or reads token ids only.

    Args:
        model: what transformers loaded.
        kind: "encoder-decoder", "encoder" or "decoder".
        name: for messages.

    Raises:
        UnsupportedModel: naming the family and what it lacks.
    """
    family = f"{name!r} (a {model.config.model_type})"
    if not _gives_vectors(model):
        raise UnsupportedModel(f"{family} cannot be used: its word embeddings are not one table of plain vectors")
    if getattr(text_config(model.config), "hidden_size_per_layer_input", 0):
        raise UnsupportedModel(
            f"{family} cannot be used: its layers read vectors of their own for each token id (per-layer inputs), "
            "and a prompt has no token ids"
        )
    if not _reads_vectors(reading_module(model, kind)):
        raise UnsupportedModel(f"{family} cannot be used: it reads token ids, and not word vectors in their place")


def _gives_vectors(model: Any) -> bool:
    """Whether the embedding module gives one vector a token; I-BERT's gives a pair, Perceiver's is a tensor."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        return False
    weight = getattr(table, "weight", None)
    if not isinstance(table, nn.Module) or not isinstance(weight, Tensor) or weight.ndim != 2:
        return False
    with torch.no_grad():
        vectors = table(torch.zeros(1, 1, dtype=torch.long, device=weight.device))
    return isinstance(vectors, Tensor) and vectors.shape == (1, 1, weight.shape[1])


def _reads_vectors(reader: Any) -> bool:
    """Whether a module is called with vectors alone, without token ids."""
    parameters = inspect.signature(reader.forward).parameters
    ids = parameters.get("input_ids")
    return "inputs_embeds" in parameters and (ids is None or ids.default is not inspect.Parameter.empty)
