"""What is asked of a transformers model before a prompt joins it: its kind, its positions, what PEFT wraps."""

import inspect
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import BadInput, UnsupportedModel

Kind = Literal["encoder-decoder", "encoder", "decoder"]

# By config.model_type; each is in the tests. FLAN-T5 and T5 v1.1 are t5, MiniLM is bert.
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("t5", "mt5", "umt5", "bart"), "encoder-decoder"),
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "albert", "distilbert", "electra", "mpnet"), "encoder"
    ),
    **dict.fromkeys(("gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "opt"), "decoder"),
}
RELATIVE = ("t5", "mt5", "umt5")
# Their encoders multiply by sqrt(d) only what they look up themselves; in BART and others the table does.
_SCALED_FROM_IDS = ("pegasus", "marian", "mvp", "blenderbot-small")


def kind_of(config: Any, name: str) -> Kind:
    """How a model with this configuration reads and answers.

    Raises:
        UnsupportedModel: half of an encoder-decoder, an encoder set up as a decoder, or none of the kinds.
    """
    kind = KINDS.get(config.model_type)
    if kind == "encoder-decoder" and not config.is_encoder_decoder:
        raise UnsupportedModel(
            f"{name!r} is the encoder of a {config.model_type} alone; load the model with its decoder"
        )
    if kind in ("encoder-decoder", "encoder") and getattr(config, "is_decoder", False):
        raise UnsupportedModel(
            f"{name!r} is a {config.model_type} set up as a decoder (is_decoder); load it as an encoder"
        )
    return kind or _kind_of_other_family(config, name)


def _kind_of_other_family(config: Any, name: str) -> Kind:
    """The kind of a family that is not in KINDS, by what transformers builds from it; `verify` tries the model."""
    from transformers.models.auto import modeling_auto as auto

    if (
        getattr(config, "is_encoder_decoder", False)
        and config.model_type in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    ):
        return "encoder-decoder"
    if config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not _is_bidirectional(config):
        return "decoder"
    if config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    raise UnsupportedModel(
        f"{name!r} is a {config.model_type}, which neither writes texts nor fills masks; "
        f"choose one of {', '.join(KINDS)}"
    )


def _is_bidirectional(config: Any) -> bool:
    """Whether a family that can be set up either way is set up as an encoder."""
    from transformers.models.auto import modeling_auto as auto

    either = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return either and getattr(config, "is_decoder", True) is False


def refuse_no_model(model: Any) -> None:
    """Refuse what is no loaded model of transformers.

    Raises:
        BadInput: what it is instead, and what to do.
    """
    kind, inner = type(model).__name__, getattr(model, "module", None)
    if not isinstance(model, nn.Module):
        remedy = "its .model" if hasattr(model, "tokenizer") else "what transformers loaded"
        raise BadInput(f"a loaded model is needed here, not a {kind}; give {remedy}")
    if not hasattr(model, "config") or not hasattr(model, "get_input_embeddings"):
        remedy = "the model inside it, .module" if isinstance(inner, nn.Module) else "a model that transformers loaded"
        raise BadInput(f"a {kind} is no model of transformers; give {remedy}")
    table: Any = model
    if table.get_input_embeddings().weight.is_meta:
        raise BadInput(f"this {kind} is on the meta device and has no weights; load them")


def unwrapped(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper; its LoRA layers stay where PEFT put them, and active.

    Raises:
        UnsupportedModel: the adapter is itself a prompt, which would be lost on the way.
    """
    inner = getattr(model, "get_base_model", None)
    if inner is None:
        return model
    adapters: Mapping[str, Any] = getattr(model, "peft_config", {})
    for adapter, config in adapters.items():
        if config.is_prompt_learning:
            raise UnsupportedModel(
                f"PEFT adapter {adapter!r} is a prompt ({config.peft_type.value}); only one prompt fits before a text: "
                "give the model without it"
            )
    return inner()


def text_config(config: Any) -> Any:
    """The configuration of what reads prompt and text: of an encoder-decoder its encoder's, beside images the text's.

    A model that also reads images or sound (Gemma 3) keeps its sizes one level deeper, as do two models joined to one.
    """
    half: Any = getattr(config, "encoder", None) if config.is_encoder_decoder else None
    return (half if hasattr(half, "get_text_config") else config).get_text_config()


def decoder_of(model: nn.Module) -> Any:
    """The layers of a decoder below its head; the model itself where it has no head.

    What transformers calls the decoder is the head in ModernBERT's and the whole in Llama 4's, and in OPT's the head
    does not call what is named the base model.
    """
    whole: Any = model
    for part in (whole.get_decoder(), whole.base_model, getattr(whole, "model", whole)):
        if part is not whole and "inputs_embeds" in inspect.signature(part.forward).parameters:
            return part
    return whole


def reading_module(model: Any, kind: str) -> Any:
    """The module of a model whose layers read prompt and text; `kind` is that of the model."""
    if kind == "encoder":
        return getattr(model, "base_model", model)
    return model.get_encoder() if kind == "encoder-decoder" else decoder_of(model)


def generates_from_vectors(model: nn.Module) -> bool:
    """Whether a decoder's own `generate` takes word vectors; transformers looks at the same signature."""
    whole: Any = model
    return "inputs_embeds" in inspect.signature(whole.prepare_inputs_for_generation).parameters


def entry_scale(config: Any) -> float:
    """What a model multiplies its word vectors by where it is given ids, and not where it is given embeddings."""
    scaled = config.model_type in _SCALED_FROM_IDS and config.scale_embedding
    return math.sqrt(config.d_model) if scaled else 1.0


def embedded(model: nn.Module, ids: Int[Tensor, "*b"]) -> Float[Tensor, "*b e"]:
    """The embeddings for which a model computes what it computes for these ids."""
    vectors = model.get_input_embeddings()(ids)  # pyright: ignore[reportCallIssue]  (nn.Module's getattr)
    scale = entry_scale(model.config)
    return vectors if scale == 1 else vectors * scale


def word_vectors(model: nn.Module) -> Float[Tensor, "v e"]:
    """Each token's vector as it enters the model: what a prompt vector stands beside.

    Gemma's embedding module multiplies its table by sqrt(e); a prompt is not multiplied, here as in PEFT.
    """
    module: Any = model.get_input_embeddings()  # pyright: ignore[reportCallIssue]  (nn.Module's getattr)
    table, scale = module.weight, getattr(module, "embed_scale", 1.0) * entry_scale(model.config)
    return table if scale == 1 else table * torch.as_tensor(scale, dtype=table.dtype, device=table.device)


def first_position(model: nn.Module) -> int:
    """Position id of the first token: 0, or padding_idx + 1 in the family of RoBERTa, whose pads have one too."""
    base: Any = getattr(model, "base_model", model)
    table = getattr(getattr(base, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def position_limit(model: nn.Module) -> int | None:
    """Longest input that the model has positions for; None where positions are relative or not bounded."""
    config: Any = text_config(model.config)
    limit = getattr(config, "max_position_embeddings", None)
    # XLNet says -1 for no limit.
    if has_relative_positions(model) or limit is None or limit <= 0:
        return None
    limit = min(limit, rotary_switch(model.config) or limit)
    whole: Any = model
    return limit - first_position(whole.get_encoder() if whole.config.is_encoder_decoder else whole)


def is_plain(weight: Tensor) -> bool:
    """Whether a weight is numbers in one block of memory; torchao's and bitsandbytes' are of kinds of their own."""
    return type(weight) in (Tensor, nn.Parameter)


def rotary_switch(config: Any) -> int | None:
    """Longest pass in which a row's positions do not depend on the rows beside it; None where no pass is too long.

    Longrope turns all rows by another table as soon as the longest has more tokens (Phi-3), an answer included. The
    dynamic table does so beyond all positions of the configuration, which no pass exceeds.
    """
    tables: Any = getattr(text_config(config), "rope_parameters", None) or {}
    # Where layers have several kinds of attention, each has its table.
    several = [table for table in tables.values() if isinstance(table, Mapping)]
    switches = [
        table["original_max_position_embeddings"]
        for table in several or [tables]
        if table.get("rope_type") == "longrope"
    ]
    return min(switches, default=None)


def limit_reason(model: nn.Module) -> str:
    """What ends after the last position, where the model itself has more."""
    switch = rotary_switch(model.config)
    return "" if switch is None else " before longrope turns all rows of a batch by another table"


def refuse_lost_masks(model: nn.Module, name: str) -> None:
    """Refuse a decoder in float64 whose attention is computed in float32: its pads see nothing and become NaN.

    Raises:
        UnsupportedModel: with what to load instead.
    """
    config: Any = model.config
    if next(model.parameters()).dtype == torch.float64 and config._attn_implementation == "eager":
        raise UnsupportedModel(
            f"{name!r} computes its attention in float32 (eager), which has no number for its float64 masks; "
            "load it in float32, or with attn_implementation='sdpa'"
        )


def has_relative_positions(model: nn.Module) -> bool:
    """Whether pads before the prompt shift nothing: the family of T5."""
    config: Any = model.config
    return config.model_type in RELATIVE
