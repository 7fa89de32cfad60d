"""The packed engine of T5, T5 v1.1 and mT5: the results of transformers, without computations that are not needed.

A pass of the reference pads every row to the longest, projects every encoder state to keys and values in each layer of
the decoder, and keeps tensors that only the gradients of weights need. The packed engine saves that work:

- Rows lie one after another in blocks (`blocks`), so that linear layers see little or no padding.
- The gain g of a norm is folded into the linear layer after it, W' = W diag(g). Queries, keys and values are one
  product.
- The position bias is computed once for the longest row, and a shorter row reads its upper left corner.
- A few label positions read the encoder's states directly (`CrossAttention`).
- All labels of all rows are scored in one pass of the decoder, and the head skips padded label positions.
- The first layer of the encoder passes gradients to prompt positions only.
- The backward passes are written by hand (`packed_layers`) and keep as little as possible.

Transformers is the reference: `tests/packed/` compares logits and gradients with it.
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
# Largest number of logits that exist at a time during scoring.
CHUNK = 1 << 25
# The position bias is computed for row lengths in multiples of this step.
STEP = 128
NEGATIVE = -torch.inf


@lru_cache
def _is_known(kind: type, family: str) -> bool:
    """Whether a class is one of transformers' or torch's own, so that it is known what it computes."""
    return kind.__module__ == f"transformers.models.{family}.modeling_{family}" or (
        kind.__module__.startswith(("transformers.activations", "torch.nn.modules."))
    )


@final
@dataclass(frozen=True, kw_only=True)
class Survey:
    """The present state of a model.

    Args:
        unfit: the reason why transformers has to run its passes; None if they can be packed.
        state: a value that changes when a weight is exchanged, moved, converted or written to.
    """

    unfit: str | None = None
    state: tuple[Any, ...] = ()


def survey(model: nn.Module) -> Survey:
    """Check whether the passes of a model can be packed. The check runs before each pass and takes about 0.1 ms.

    The model has to be a frozen T5 as transformers builds it, in one precision on one device. It may have no hooks, no
    recomputed layers and no active dropout.
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
        fields = module.__dict__
        if fields["_forward_hooks"] or fields["_forward_pre_hooks"] or fields["_backward_hooks"] or "forward" in fields:
            return Survey(unfit="hooks act on its layers, or they are recomputed")
        if fields["training"]:
            return Survey(unfit="its dropout is on")
        for parameter in fields["_parameters"].values():
            if parameter is None:
                continue
            if parameter.requires_grad:
                return Survey(unfit="its weights are trained")
            if not is_plain(parameter):
                return Survey(unfit="its weights are quantised")
            places.add((parameter.dtype, parameter.device))
            # Inference tensors have no counter of writes.
            writes = None if parameter.is_inference() else parameter._version
            state.append((id(parameter), parameter.data_ptr(), writes))
        if "variance_epsilon" in fields:
            state.append(fields["variance_epsilon"])
    if len(places) > 1:
        return Survey(unfit="its weights are of several precisions, or on several devices")
    return Survey(state=(*state, *places))


@final
@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The states of the encoder after its last norm.

    Args:
        states: states of the r packed positions.
        packing: the places of these positions in the batch.
    """

    states: Float[Tensor, "r d"]
    packing: Packing

    def unpacked(self) -> Float[Tensor, "b s d"]:
        """Return the states in the layout of the batch: the prompt before the text, with zeros at padding."""
        return self.packing.unpacked(self.states)


@final
class PackedT5:
    """The passes of one frozen T5, from copies of its weights with the gains of the norms folded in.

    The copies are the queries, keys, values and first feed-forward layers of encoder and decoder. The embeddings, the
    head and the second feed-forward layers are not copied.

    Args:
        model: a model for which `survey` gives no reason against packing.
        quantize: "int8" converts the linear layers to 8 bits, except for the head and the keys and values of the
            cross-attention.
        library: the library that multiplies float32 on a CPU.
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
        """Run the encoder over each prompt and row. The result is None if a row has neither prompt nor text."""
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
        # Word vectors need no gradient, so the first layer computes the gradient at prompt positions only.
        gradient_rows = None if x.requires_grad else places
        x = x.index_put((places,), prompt.to(x.dtype))
        biases = [self.encoder_bias.of(block) for block in packing.blocks]
        deep = None if prompt_batch.deep is None or prompt_batch.is_deep is None else prompt_batch.is_deep[owners]
        for number, (attention, forward) in enumerate(self.encoder):
            if number and deep is not None and prompt_batch.deep is not None:
                deep_vectors = prompt_batch.deep[owners[deep], number - 1, slots[deep]]
                x = x.index_put((places[deep],), deep_vectors.to(x.dtype))
            x = forward(attention(x, packing.blocks, biases, gradient_rows if number == 0 else None))
        return Encoded(states=_end(x, self.encoder_end), packing=packing)

    def decode(self, encoded: Encoded, inputs: Int[Tensor, "b c l"]) -> Float[Tensor, "b c l d"]:
        """Run the decoder over c sequences per row and return its last states, ready for the head."""
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

    def logits(self, states: Float[Tensor, "b l d"], needed: Bool[Tensor, "b l"]) -> Float[Tensor, "b l v"]:
        """Return the logits of the head at the positions of the mask `needed`, and zeros elsewhere."""
        if bool(needed.all()):
            return self.head(states.flatten(0, 1)).view(*needed.shape, -1)
        logits = self.head(states[needed])
        return logits.new_zeros(*needed.shape, logits.shape[1]).index_put((needed,), logits)

    def log_probabilities(self, states: Float[Tensor, "r d"], tokens: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        """Return the log-probability of one token after each state, in float32 at least.

        The states are scored in chunks, which limits the memory of the logits.
        """
        chunk = max(1, CHUNK // len(self.head.weight))
        scores = []
        for chunk_states, chunk_tokens in zip(states.split(chunk), tokens.split(chunk), strict=True):
            logits = self.head(chunk_states)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            scores.append(logits.gather(1, chunk_tokens[:, None])[:, 0] - logits.logsumexp(-1))
        return torch.cat(scores)


def absorbs(labels: int, d: int, d_kv: int, trained: bool) -> bool:
    """Whether the absorbed form of the cross-attention needs fewer multiply-adds than the projected form.

    A forward pass takes for each encoder state 2 l h d multiply-adds (absorbed), or 2 d h d_kv + 2 l h d_kv
    (projected). A backward pass costs twice that for the attention, and once that for a projection, because the weight
    gets no gradient.

    Args:
        labels: number l of label positions per row.
        d: width of the encoder's states.
        d_kv: width of a head's keys and values.
        trained: whether there is a backward pass.
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
    """Return the function between the linear layers, applied to the joint output of the first ones; None for ReLU."""
    if isinstance(act, nn.ReLU) and not gated:
        return None
    # Transformers computes this formula step by step, in eight passes over the numbers.
    simple = _gelu if type(act).__name__ == "NewGELUActivation" else act
    return (lambda both: _gated(simple, both)) if gated else simple


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _gated(act: Callable[[Tensor], Tensor], both: Tensor) -> Tensor:
    a, b = both.chunk(2, -1)
    return act(a) * b


@final
class _Bias:
    """Position biases of a stack's self-attention, computed for the longest row so far.

    B_ij depends on j - i alone, so the bias of a shorter row is a corner of the bias of a longer one.
    """

    def __init__(self, attention: Any, causal: bool):
        self.attention, self.causal = attention, causal
        self.known: Tensor | None = None

    def of(self, block: Block) -> Tensor:
        """Return the bias of a block: [h, w, w], or [c, h, w, w] with -inf at the padding of each row."""
        corner = self._up_to(block.width)[:, : block.width, : block.width]
        if block.mask is None:
            return corner
        return corner + corner.new_zeros(block.mask.shape).masked_fill_(~block.mask, NEGATIVE)[:, None, None]

    @torch.no_grad()
    def _up_to(self, width: int) -> Tensor:
        cached = self.known
        if cached is None or cached.shape[1] < width:
            size = -(-width // STEP) * STEP
            bias = self.attention.compute_bias(size, size)[0]
            bias = bias.to(torch.promote_types(bias.dtype, torch.float32))
            if self.causal:
                later = torch.ones(size, size, dtype=torch.bool, device=bias.device).triu(1)
                bias = bias.masked_fill(later, NEGATIVE)
            self.known = cached = bias.contiguous()
        return cached
