"""Word embeddings at another scale with unchanged outputs, so that the size of a prompt beside a token can be chosen.

In a model that normalises whatever it reads, multiplying the embeddings and everything that is added to them by s
changes no output: RMSNorm and LayerNorm of s x are those of x, to the last digit once their epsilon is multiplied by
s^2. A head that shares the embedding table is given states divided by s.

T5's token vectors are large beside a prompt drawn from [-0.5, 0.5], GPT-2's are tiny, and this ratio decides which
method learns.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ...checks import refuse_no_scale
from ...errors import UnsupportedModel
from .._mode import evaluating
from ..family import is_plain


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which modules of a family make up its residual stream, by patterns over their names.

    Args:
        tables: embeddings that begin the stream: times s.
        writers: what is added to it, weights and biases: times s.
        readers: norms that read it: epsilon times s^2.
        last: the norm before a head that shares the embedding table: divided by s, where the head does.
        epsilon: the configuration's name for the epsilon of `readers` if no other norm has it, so that a model which
            is saved stays exact.
    """

    tables: Sequence[str]
    writers: Sequence[str] = ()
    readers: Sequence[str]
    last: str
    epsilon: str | None = None


def _encoder(last: str) -> Recipe:
    """BERT and similar models normalise their embeddings at once. After that norm nothing is scaled."""
    return Recipe(tables=("*embeddings.*_embeddings",), readers=("*embeddings.LayerNorm",), last=last)


def _llama(**changes: Any) -> Recipe:
    """Llama and similar models."""
    shape: dict[str, Any] = {
        "tables": ("*.embed_tokens",),
        "writers": ("*.o_proj", "*.down_proj"),
        "readers": ("*.input_layernorm", "*.post_attention_layernorm", "*.norm"),
        "last": "*.norm",
        "epsilon": "rms_norm_eps",
    }
    return Recipe(**{**shape, **changes})


_T5 = Recipe(
    tables=("shared", "*.embed_tokens"),
    writers=("*Attention.o", "*.wo"),
    readers=("*layer_norm",),
    last="decoder.final_layer_norm",
    epsilon="layer_norm_epsilon",
)
RECIPES: Mapping[str, Recipe] = {
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    # Each sublayer ends in its own norm, so only the states before the first norm grow. The head reads the last norm.
    "bart": Recipe(
        tables=("*.shared", "*.embed_tokens", "*.embed_positions"),
        readers=("*.layernorm_embedding",),
        last="*.decoder.layers.*.final_layer_norm",
    ),
    "bert": _encoder("cls.predictions.transform.LayerNorm"),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "mpnet"), _encoder("lm_head.layer_norm")),
    "albert": _encoder("predictions.LayerNorm"),
    "distilbert": _encoder("vocab_layer_norm"),
    "electra": _encoder("generator_predictions.LayerNorm"),
    "gpt2": Recipe(
        tables=("*.wte", "*.wpe"),
        writers=("*.c_proj",),
        readers=("*.ln_*",),
        last="*.ln_f",
        epsilon="layer_norm_epsilon",
    ),
    **dict.fromkeys(("llama", "mistral", "qwen2"), _llama()),
    # Queries and keys have norms with the same epsilon, which do not read the residual stream.
    "qwen3": _llama(epsilon=None),
    "gemma": _llama(),
    # Everything that is added to the residual stream comes out of a norm.
    "gemma2": _llama(
        writers=("*.post_attention_layernorm", "*.post_feedforward_layernorm"),
        readers=("*.input_layernorm", "*.pre_feedforward_layernorm", "*.norm"),
        epsilon=None,
    ),
    "opt": Recipe(
        tables=("*.embed_tokens", "*.embed_positions"),
        writers=("*.out_proj", "*.fc2"),
        readers=("*layer_norm",),
        last="*.decoder.final_layer_norm",
    ),
}
# Norms that multiply by 1 + weight.
_ONE_PLUS = ("GemmaRMSNorm", "Gemma2RMSNorm")
# Largest change that counts as rounding. A forgotten module changes outputs far more.
TOLERANCE = 1e-3
# The same where the weights are in bfloat16 or quantised.
COARSE = 5e-2
_RECORD = "_softprompt_scaling"


@final
@dataclass(frozen=True)
class Scaling:
    """The record of a rescaled embedding module.

    Args:
        factor: its table over the checkpoint's own.
        original: digest of the checkpoint's own table.
        current: digest of the table as rescaled; a table that was exchanged since has another.
    """

    factor: float
    original: str
    current: str


def digest_of(table: Float[Tensor, "v e"]) -> str:
    """SHA-256 of a word embedding table in bfloat16: the same for one checkpoint in several precisions."""
    # The table that a quantised module represents, because the parts of quantised tables have no common form.
    plain = table.detach() if type(table).dequantize is Tensor.dequantize else table.detach().dequantize()
    rounded = plain.to("cpu", torch.bfloat16).contiguous()
    return hashlib.sha256(rounded.view(torch.uint8).numpy().data).hexdigest()


# The last digest of a table, with the table's address and number of changes at that time.
_DIGESTS = WeakIdKeyDictionary()


def _digest_now(table: Tensor) -> str:
    """`digest_of`, computed anew only if the table has changed, because every call of `predict` needs it."""
    if table.is_inference() or not is_plain(table):
        return digest_of(table)
    state = table.data_ptr(), table._version
    if table not in _DIGESTS or _DIGESTS[table][0] != state:
        _DIGESTS[table] = state, digest_of(table)
    return _DIGESTS[table][1]


def scaling_of(model: nn.Module) -> Scaling:
    """The factor by which a model's word vectors were multiplied since loading; 1 if they were not."""
    embeddings: Any = model.get_input_embeddings()  # pyright: ignore[reportCallIssue]  (nn.Module's getattr)
    digest = _digest_now(embeddings.weight)
    known: Scaling | None = getattr(embeddings, _RECORD, None)
    return known if known is not None and known.current == digest else Scaling(1.0, digest, digest)


def states_scale(model: nn.Module) -> bool | None:
    """Whether `scale_embeddings` multiplies the states between layers too; None for a family without a recipe.

    Yes where layers add to one stream; no where each ends in a norm of its own (BERT, BART).
    """
    config: Any = model.config
    recipe = RECIPES.get(config.model_type)
    return None if recipe is None else bool(recipe.writers)


@torch.no_grad()
def scale_embeddings(model: nn.Module, factor: float, *, name: str | None = None) -> None:
    """Multiply a model's word vectors by `factor`, in place, and leave what it computes unchanged.

    Embeddings and everything that is added to the residual stream times s, epsilons of the norms that read it times
    s^2, the states before a tied head divided by s. Exact for powers of two, else to rounding; tried on random tokens
    before and after. Factors multiply: 2 and then 3 is 6.

    Args:
        model: what transformers loaded; a prompt vector for it becomes `factor` times as large.
        factor: s, positive and finite.
        name: for messages; None takes what the model says.

    Raises:
        BadInput: a factor that is not positive and finite.
        UnsupportedModel: a family without a recipe, weights that are quantised or adapted, or outputs that change;
            the model is as it was.
    """
    refuse_no_scale(factor)
    if factor == 1:
        return
    config: Any = model.config
    label = name or config._name_or_path or type(model).__name__
    if config.model_type not in RECIPES:
        raise UnsupportedModel(
            f"how to rescale the embeddings of a {config.model_type} ({label!r}) is not known, only of "
            f"{', '.join(sorted(RECIPES))}; use --embedding-scale 1"
        )
    recipe, scaling = RECIPES[config.model_type], scaling_of(model)
    parts = {kind: _matching(model, getattr(recipe, kind)) for kind in ("tables", "writers", "readers")}
    tied = _has_tied_head(model)
    last = _matching(model, [recipe.last])[-1:] if tied else []
    if not parts["tables"] or not parts["readers"] or (tied and not last):
        raise UnsupportedModel(
            f"{label!r} lacks a norm that others of its family ({config.model_type}) have, so its embeddings cannot be "
            "rescaled; use --embedding-scale 1"
        )
    _refuse_other_weights([*parts["tables"], *parts["writers"], *last], label)
    # factor**2 would raise an error where it overflows.
    squared = factor * factor
    with _unchanged(model, label) as undo:
        # Several modules may share one table.
        seen: set[int] = set()
        for module in [*parts["tables"], *parts["writers"]]:
            _multiply(module, factor, 1.0, seen, undo)
        for module in last:
            _multiply(module, 1.0, factor, seen, undo)
        for norm in parts["readers"]:
            _multiply_epsilon(norm, squared, undo)
    if recipe.epsilon:
        setattr(config, recipe.epsilon, getattr(config, recipe.epsilon) * squared)
    embeddings: Any = model.get_input_embeddings()  # pyright: ignore[reportCallIssue]  (nn.Module's getattr)
    record = Scaling(scaling.factor * factor, scaling.original, digest_of(embeddings.weight))
    embeddings.__dict__[_RECORD] = record


def _matching(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """The modules whose names match a pattern, in the model's order."""
    return [module for name, module in model.named_modules() if any(fnmatchcase(name, p) for p in patterns)]


def _has_tied_head(model: Any) -> bool:
    """Whether the output layer is the embedding table."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _refuse_other_weights(modules: Sequence[nn.Module], name: str) -> None:
    """Refuse quantised weights, and adapters, whose parts would have to be multiplied one by one."""
    for module in modules:
        weights = dict(module.named_parameters())
        if not set(weights) <= {"weight", "bias"} or not all(
            w.is_floating_point() and is_plain(w) for w in weights.values()
        ):
            raise UnsupportedModel(
                f"weights of {name!r} are quantised or adapted ({type(module).__name__}) and cannot be rescaled; "
                "load it plain, adapters merged, or use --embedding-scale 1"
            )


Undo = list[tuple[nn.Module, str, Any, Tensor | None]]


def _multiply(module: nn.Module, times: float, over: float, seen: set[int], undo: Undo) -> None:
    """Weight and bias of a module x times / over, once each."""
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in seen:
            continue
        undo.append((module, name, parameter, parameter.clone()))
        if type(module).__name__ in _ONE_PLUS:
            # This is computed in float32, because bfloat16 cannot tell weights near -1 apart.
            wide = parameter.double() if parameter.dtype == torch.float64 else parameter.float()
            changed = (1 + wide) * times / over - 1
            module.register_parameter(name, parameter := nn.Parameter(changed, parameter.requires_grad))
        else:
            parameter.mul_(times).div_(over)
        seen.add(id(parameter))


def _multiply_epsilon(norm: Any, factor: float, undo: Undo) -> None:
    name = "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps"
    undo.append((norm, name, getattr(norm, name), None))
    setattr(norm, name, getattr(norm, name) * factor)


@contextmanager
def _unchanged(model: nn.Module, name: str) -> Iterator[Undo]:
    """Undo the changes of the `with` block, and raise an error, if they change the model's outputs.

    Yields:
        where to note each attribute before it is changed: module, name, value, and a copy of a tensor's numbers.
    """
    undo: Undo = []
    try:
        with evaluating(model):
            before = _outputs(model)
            yield undo
            after = _outputs(model)
        difference = (after - before).abs().max() / before.abs().max().clamp(min=1e-12)
        # Of the largest output; also in float64, where some norms compute in float32.
        if not difference <= (COARSE if before.dtype == torch.bfloat16 else TOLERANCE):
            raise UnsupportedModel(
                f"rescaling the embeddings of {name!r} would change its answers by {difference:.1e} of the largest "
                "logit; give a power of two, which is exact in every precision, or 1"
            )
    except BaseException:
        for module, attribute, value, numbers in reversed(undo):
            if numbers is not None:
                value.copy_(numbers)
            setattr(module, attribute, value)
        raise


def _outputs(model: Any) -> Tensor:
    """Logits, or last states where there is no head, for a few random tokens."""
    table = model.get_input_embeddings().weight
    ids = torch.randint(len(table), (2, 8), generator=torch.Generator().manual_seed(0)).to(table.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    output = model(**inputs)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state
