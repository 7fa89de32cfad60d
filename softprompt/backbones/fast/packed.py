"""The packed engine of T5, T5 v1.1 and mT5: what transformers computes, without what need not be computed.

A pass of the reference pads every row to the longest, projects every encoder state to keys and values in each layer of
the decoder, and keeps what only a weight's gradient would need. Here

- rows lie one behind the other in blocks (`_blocks`), so that linear layers see no or few pads;
- the norm's gain g is folded into the linear layer behind it, W' = W diag(g); queries, keys, values are one product;
- the position bias is computed once for the longest row, and a shorter row reads its upper left corner;
- label positions that are few read the encoder's states themselves (`CrossAttention`);
- all labels of all rows are scored in one pass of the decoder, and the head reads label positions that are no pads;
- the first layer of the encoder passes gradients to prompt positions only;
- backward passes are written out (`_packed_layers`), and keep the least.

Transformers' passes are the truth: `tests/test_packed.py` holds logits and gradients against them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ...prompts.batch import PromptBatch, TextBatch
from .._products import Library
from ..family import is_plain
from .blocks import CALL, Block, Packing, pack
from .frozen_linear import FrozenLinear, frozen_linear
from .int8 import part_in_int8
from .packed_layers import CrossAttention, FeedForward, SelfAttention, norm

FAMILIES = {"T5ForConditionalGeneration": "t5", "MT5ForConditionalGeneration": "mt5"}
# Entries of a logits table that is scored at once.
CHUNK = 1 << 25
# The bias of longer rows is computed anew for each longer one, in steps.
STEP = 128
NEGATIVE = -torch.inf


@lru_cache
def _is_known(kind: type, family: str) -> bool:
    """Whether a module computes what its class in transformers or torch does."""
    return kind.__module__ == f"transformers.models.{family}.modeling_{family}" or (
        kind.__module__.startswith(("transformers.activations", "torch.nn.modules."))
    )


@final
@dataclass(frozen=True, kw_only=True)
class Survey:
    """A model as it is at this moment.

    Args:
        unfit: why its passes are left to transformers; None where they can be packed.
        state: equal as long as no weight was exchanged, moved, converted or written to.
    """

    unfit: str | None = None
    state: tuple[Any, ...] = ()


def survey(model: nn.Module) -> Survey:
    """Whether a model's passes can be packed, asked before each of them: it takes a tenth of a millisecond.

    It has to be a T5 as transformers builds it, frozen, in one precision on one device, without hooks, layers that are
    recomputed, or dropout.
    """
    family = FAMILIES.get(type(model).__name__)
    if family is None or not _is_known(type(model), family):
        return Survey(unfit=f"it is a {type(model).__name__}, not a T5")
    state: list[Any] = []
    places: set[tuple[torch.dtype, torch.device]] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        waiting += [child for child in module._modules.values() if child is not None]
        if not _is_known(type(module), family):
            return Survey(unfit=f"it holds a {type(module).__name__}, which is not T5's")
        own = module.__dict__
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or "forward" in own:
            return Survey(unfit="hooks act on its layers, or they are recomputed")
        if own["training"]:
            return Survey(unfit="its dropout is on")
        for parameter in own["_parameters"].values():
            if parameter is None:
                continue
            if parameter.requires_grad:
                return Survey(unfit="its weights are trained")
            if not is_plain(parameter):
                return Survey(unfit="its weights are quantised")
            places.add((parameter.dtype, parameter.device))
            # Inference tensors do not count how often they are written to.
            writes = None if parameter.is_inference() else parameter._version
            state.append((id(parameter), parameter.data_ptr(), writes))
        if "variance_epsilon" in own:
            state.append(own["variance_epsilon"])
    if len(places) > 1:
        return Survey(unfit="its weights are of several precisions, or on several devices")
    return Survey(state=(*state, *places))


@final
@dataclass(frozen=True, kw_only=True)
class Encoded:
    """States of the encoder behind its last norm.

    Args:
        states: r packed positions.
        packing: where they belong.
    """

    states: Float[Tensor, "r d"]
    packing: Packing

    def unpacked(self) -> Float[Tensor, "b s d"]:
        """In the batch's layout, prompt before text, zeros at pads."""
        return self.packing.unpacked(self.states)


@final
class PackedT5:
    """The passes of one frozen T5, from copies of its weights with the norms' gains folded in.

    Copied are the encoder's and the decoder's queries, keys, values and first feed-forward layers, not embeddings,
    head or second layers.

    Args:
        model: for which `survey` finds no reason.
        quantize: "int8" for the linear layers in 8 bits, except the head and the keys and values of cross-attention.
        library: that multiplies float32 on a CPU.
    """

    def __init__(self, model: Any, quantize: str | None = None, library: Library = "onednn"):
        config = model.config
        self.embedding, self.width, self.key_width = model.shared.weight.detach(), config.d_model, config.d_kv
        self.encoder = [_encoder_layer(block, library) for block in model.encoder.block]
        self.decoder = [_decoder_layer(block, library) for block in model.decoder.block]
        if quantize == "int8":
            self.encoder = [(part_in_int8(a), part_in_int8(f)) for a, f in self.encoder]
            self.decoder = [(part_in_int8(a), part_in_int8(c), part_in_int8(f)) for a, c, f in self.decoder]
        self.encoder_end, self.decoder_end = model.encoder.final_layer_norm, model.decoder.final_layer_norm
        self.encoder_bias = _Bias(model.encoder.block[0].layer[0].SelfAttention, causal=False)
        self.decoder_bias = _Bias(model.decoder.block[0].layer[0].SelfAttention, causal=True)
        self.head = FrozenLinear(model.lm_head.weight, library)
        self.head_scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
        linear = sum(p.numel() for p in model.encoder.block[0].parameters() if p.ndim == 2)
        self.saving = CALL.get(self.embedding.device.type, CALL["cuda"]) / (2 * linear)

    def encode(self, prompt_batch: PromptBatch, batch: TextBatch) -> Encoded | None:
        """The encoder over each row behind its prompt; None where a row has neither prompt nor text."""
        mask = torch.cat([prompt_batch.mask[batch.owner], batch.mask], 1)
        packing = pack(mask, self.saving)
        if packing is None:
            return None
        n, rows, columns = prompt_batch.mask.shape[1], packing.rows, packing.columns
        within = (columns - n).clamp(min=0), rows
        x = functional.embedding(batch.ids[rows, within[0]] if batch.ids.shape[1] else columns * 0, self.embedding)
        if batch.text_delta is not None and batch.ids.shape[1]:
            x = x + batch.text_delta[rows, within[0]].to(x.dtype)
        (places,) = (mask[rows, columns] & (columns < n)).nonzero(as_tuple=True)
        owners, slots = batch.owner[rows[places]], columns[places]
        prompt = prompt_batch.vectors[owners, slots]
        if batch.prompt_delta is not None:
            prompt = prompt + batch.prompt_delta[rows[places], slots]
        # Word vectors ask for no gradient: behind them the first layer need not compute one.
        wanted = None if x.requires_grad else places
        x = x.index_put((places,), prompt.to(x.dtype))
        biases = [self.encoder_bias.of(block) for block in packing.blocks]
        deep = None if prompt_batch.deep is None or prompt_batch.is_deep is None else prompt_batch.is_deep[owners]
        for number, (attention, forward) in enumerate(self.encoder):
            if number and deep is not None and prompt_batch.deep is not None:
                fresh = prompt_batch.deep[owners[deep], number - 1, slots[deep]]
                x = x.index_put((places[deep],), fresh.to(x.dtype))
            x = forward(attention(x, packing.blocks, biases, wanted if number == 0 else None))
        return Encoded(states=_end(x, self.encoder_end), packing=packing)

    def decode(self, encoded: Encoded, inputs: Int[Tensor, "b c l"]) -> Float[Tensor, "b c l d"]:
        """The decoder's last states, ready for the head, behind each of c sequences that a row's decoder reads."""
        b, c, length = inputs.shape
        packing = encoded.packing
        x = functional.embedding(inputs[packing.order].flatten(), self.embedding)
        whole = (Block(first=0, count=b * c, start=0, width=length),)
        biases = [self.decoder_bias.of(whole[0])]
        absorbed = absorbs(c * length, self.width, self.key_width, encoded.states.requires_grad)
        for attention, cross, forward in self.decoder:
            x = attention(x, whole, biases)
            x = forward(cross(x, encoded.states, packing.blocks, absorbed))
        x = _end(x, self.decoder_end) * self.head_scale
        return x.view(b, c, length, -1)[packing.order.argsort()]

    def logits(self, states: Float[Tensor, "b l d"], wanted: Bool[Tensor, "b l"]) -> Float[Tensor, "b l v"]:
        """The head's logits where wanted, zeros elsewhere."""
        if bool(wanted.all()):
            return self.head(states.flatten(0, 1)).view(*wanted.shape, -1)
        found = self.head(states[wanted])
        return found.new_zeros(*wanted.shape, found.shape[1]).index_put((wanted,), found)

    def log_probabilities(self, states: Float[Tensor, "r d"], tokens: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        """Log-probability of one token behind each state, in float32 at least, a part of the states at a time."""
        found = []
        for some, own in zip(*(x.split(max(1, CHUNK // len(self.head.weight))) for x in (states, tokens)), strict=True):
            logits = self.head(some)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            found.append(logits.gather(1, own[:, None])[:, 0] - logits.logsumexp(-1))
        return torch.cat(found)


def absorbs(labels: int, d: int, d_kv: int, trained: bool) -> bool:
    """Whether absorbing the cross-attention's projections takes fewer multiply-adds, for so many label positions a row.

    For each encoder state, forwards: absorbed 2 l h d, projected 2 d h d_kv + 2 l h d_kv. Backwards the attention costs
    twice that, a projection without a weight's gradient once.
    """
    attention, projection = (3, 2) if trained else (1, 1)
    return attention * labels * (d - d_kv) < projection * d * d_kv


def _end(x: Tensor, last: Any) -> Tensor:
    return norm(x, last.variance_epsilon) * last.weight


def _encoder_layer(block: Any, library: Library) -> tuple[SelfAttention, FeedForward]:
    return _self_attention(block.layer[0], library), _feed_forward(block.layer[-1], library)


def _decoder_layer(block: Any, library: Library) -> tuple[SelfAttention, CrossAttention, FeedForward]:
    part = block.layer[1]
    inner = part.EncDecAttention
    cross = CrossAttention(
        query=frozen_linear(inner.q.weight, library=library, gain=part.layer_norm.weight),
        key=inner.k.weight.detach(),
        value=inner.v.weight.detach(),
        out=frozen_linear(inner.o.weight, library=library),
        heads=inner.n_heads,
        epsilon=part.layer_norm.variance_epsilon,
        library=library,
    )
    return _self_attention(block.layer[0], library), cross, _feed_forward(block.layer[-1], library)


def _self_attention(part: Any, library: Library) -> SelfAttention:
    inner = part.SelfAttention
    return SelfAttention(
        qkv=frozen_linear(inner.q.weight, inner.k.weight, inner.v.weight, library=library, gain=part.layer_norm.weight),
        out=frozen_linear(inner.o.weight, library=library),
        heads=inner.n_heads,
        epsilon=part.layer_norm.variance_epsilon,
    )


def _feed_forward(part: Any, library: Library) -> FeedForward:
    inner, gain = part.DenseReluDense, part.layer_norm.weight
    gated = hasattr(inner, "wi_0")
    return FeedForward(
        inner=frozen_linear(
            *((inner.wi_0.weight, inner.wi_1.weight) if gated else (inner.wi.weight,)), library=library, gain=gain
        ),
        out=frozen_linear(inner.wo.weight, library=library),
        epsilon=part.layer_norm.variance_epsilon,
        function=_activation(inner.act, gated),
    )


def _activation(act: nn.Module, gated: bool) -> Callable[[Tensor], Tensor] | None:
    """F over the whole of what the first linear layers give."""
    if isinstance(act, nn.ReLU) and not gated:
        return None
    # transformers spells this formula out, in eight passes over the numbers.
    simple = _gelu if type(act).__name__ == "NewGELUActivation" else act
    return (lambda both: _gated(simple, both)) if gated else simple


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _gated(act: Callable[[Tensor], Tensor], both: Tensor) -> Tensor:
    a, b = both.chunk(2, -1)
    return act(a) * b


@final
class _Bias:
    """Biases of a stack's self-attention, computed once for the longest row met and read in part by shorter ones.

    B_ij depends on j - i alone, so that the bias of a shorter row is a corner of a longer one's.
    """

    def __init__(self, attention: Any, causal: bool):
        self.attention, self.causal = attention, causal
        self.known: Tensor | None = None

    def of(self, block: Block) -> Tensor:
        """[h, w, w], or [c, h, w, w] with -inf at the pads of each row."""
        corner = self._up_to(block.width)[:, : block.width, : block.width]
        if block.mask is None:
            return corner
        return corner + corner.new_zeros(block.mask.shape).masked_fill_(~block.mask, NEGATIVE)[:, None, None]

    @torch.no_grad()
    def _up_to(self, width: int) -> Tensor:
        known = self.known
        if known is None or known.shape[1] < width:
            size = -(-width // STEP) * STEP
            found = self.attention.compute_bias(size, size)[0]
            found = found.to(torch.promote_types(found.dtype, torch.float32))
            if self.causal:
                later = torch.ones(size, size, dtype=torch.bool, device=found.device).triu(1)
                found = found.masked_fill(later, NEGATIVE)
            self.known = known = found.contiguous()
        return known
