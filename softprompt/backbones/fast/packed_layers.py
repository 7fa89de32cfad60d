"""The three sublayers of T5 over packed positions, each one function with its backward pass written out.

Every sublayer reads n = x / rms(x), rms(x) = sqrt(mean(x^2) + eps): the norm's gain is in the linear layer behind it.
Of the frozen weights no gradient is wanted, so a backward pass needs of a linear layer its matrix alone, of the norm n
and 1/rms, of the attention queries, keys and values, of a ReLU one byte a number. The probabilities of the attention
are computed again rather than kept: softmax(Q K^T + B) costs one product beside the four that a backward pass takes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from .._products import Library
from .blocks import Block
from .frozen_linear import AbstractFrozenLinear, FrozenLinear, once

Normed = tuple[Float[Tensor, "r d"], Float[Tensor, "r 1"]]


def normed(x: Float[Tensor, "r d"], epsilon: float) -> Normed:
    """N = x / rms(x) and 1 / rms(x) (Zhang and Sennrich, 2019, arXiv:1910.07467), the latter in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_()
    inverse = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * inverse).to(x.dtype), inverse


def normed_back(
    gradient: Float[Tensor, "r d"], n: Float[Tensor, "r d"], inverse: Float[Tensor, "r 1"]
) -> Float[Tensor, "r d"]:
    """The gradient at x, from that at n: dx = (dn - n mean(dn n)) / rms. May overwrite the gradient."""
    wide = gradient.to(inverse.dtype)
    along = (wide * n).mean(-1, keepdim=True)
    return wide.addcmul_(n.to(wide.dtype), along, value=-1).mul_(inverse).to(n.dtype)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float) -> Tensor:
        n, inverse = normed(x, epsilon)
        ctx.save_for_backward(n, inverse)
        return n

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return normed_back(gradients[0].clone(), *ctx.saved_tensors), None


def norm(x: Float[Tensor, "r d"], epsilon: float) -> Float[Tensor, "r d"]:
    """X / rms(x), with its gradient."""
    result: Tensor = _Norm.apply(x, epsilon)  # pyright: ignore[reportAssignmentType]
    return result


@final
@dataclass(frozen=True, kw_only=True)
class SelfAttention:
    """x + W_o [softmax(Q_h K_h^T + B_h) V_h]_h with [Q K V] = n W_qkv^T, each row of positions by itself.

    T5 does not divide the scores by sqrt(d_kv).

    Args:
        qkv: queries, keys and values in one product, the norm's gain folded in.
        out: W_o.
        heads: h.
        epsilon: of the norm.
    """

    qkv: AbstractFrozenLinear
    out: AbstractFrozenLinear
    heads: int
    epsilon: float

    def __call__(
        self,
        x: Float[Tensor, "r d"],
        blocks: Sequence[Block],
        biases: Sequence[Tensor],
        rows: Int[Tensor, " k"] | None = None,
    ) -> Float[Tensor, "r d"]:
        """The states behind it.

        Args:
            x: the states before it.
            blocks: which positions make up a row.
            biases: B of each block, [h, w, w] or [c, h, w, w] with -inf at pads.
            rows: the only positions whose states' gradient is wanted; None for all.
        """
        result: Tensor = _SelfAttention.apply(x, self, blocks, biases, rows)  # pyright: ignore[reportAssignmentType]
        return result


class _SelfAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layer: SelfAttention,
        blocks: Sequence[Block],
        biases: Sequence[Tensor],
        rows: Tensor | None,
    ) -> Tensor:
        n, inverse = normed(x, layer.epsilon)
        qkv = layer.qkv.forward(n)
        context = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        for block, bias in zip(blocks, biases, strict=True):
            query, key, value = _heads(qkv[block.positions], block, layer.heads, 3)
            _into(context[block.positions], block, _probabilities(query, key, bias) @ value)
        ctx.layer, ctx.blocks, ctx.biases, ctx.rows = layer, blocks, biases, rows
        ctx.save_for_backward(qkv, *((n, inverse) if rows is None else (n[rows], inverse[rows])))
        return layer.out.forward(context).add_(x)

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), layer = gradients, ctx.layer
        qkv, n, inverse = ctx.saved_tensors
        incoming, inner = layer.out.backward(gradient), torch.empty_like(qkv)
        for block, bias in zip(ctx.blocks, ctx.biases, strict=True):
            query, key, value = _heads(qkv[block.positions], block, layer.heads, 3)
            (outward,) = _heads(incoming[block.positions], block, layer.heads, 1)
            probabilities = _probabilities(query, key, bias)
            scores = _softmax_back(outward @ value.mT, probabilities)
            parts = (scores @ key, scores.mT @ query, probabilities.mT @ outward)
            _into(inner[block.positions], block, *parts)
        if ctx.rows is None:
            return normed_back(layer.qkv.backward(inner), n, inverse).add_(gradient), None, None, None, None
        # The others are word vectors, which nobody asks about.
        some = normed_back(layer.qkv.backward(inner[ctx.rows]), n, inverse).add_(gradient[ctx.rows])
        return torch.zeros_like(gradient).index_copy_(0, ctx.rows, some), None, None, None, None


def _heads(states: Tensor, block: Block, heads: int, parts: int) -> Sequence[Tensor]:
    """`parts` tensors [c h, w, k] of states [c w, parts h k]; views of them where the block is one row."""
    apart = states.view(block.count, block.width, parts, heads, -1).permute(2, 0, 3, 1, 4).to(_exact(states.dtype))
    return apart.reshape(parts, block.count * heads, block.width, -1).unbind()


def _into(states: Tensor, block: Block, *parts: Tensor) -> None:
    """Writes tensors [c h, w, k] to where `_heads` would find them."""
    heads = parts[0].shape[0] // block.count
    apart = states.view(block.count, block.width, len(parts), heads, -1)
    for number, part in enumerate(parts):
        apart[:, :, number].copy_(part.view(block.count, heads, block.width, -1).transpose(1, 2))


def _exact(dtype: torch.dtype) -> torch.dtype:
    """What scores are computed in: bfloat16 has three digits, too few for the sums under a softmax."""
    return torch.promote_types(dtype, torch.float32)


def _probabilities(
    query: Float[Tensor, "ch w k"], key: Float[Tensor, "ch w k"], bias: Float[Tensor, "*c h w w"]
) -> Float[Tensor, "ch w w"]:
    """softmax(Q K^T + B)."""
    scores = query @ key.mT
    scores.view(-1, *bias.shape[-3:]).add_(bias)
    return scores.softmax(-1)


def _softmax_back(gradient: Tensor, probabilities: Tensor) -> Tensor:
    """DS = P * (dP - sum(dP * P)); overwrites the gradient."""
    return gradient.sub_((gradient * probabilities).sum(-1, keepdim=True)).mul_(probabilities)


@final
@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """x + W_o f(W_i n), with f of one argument (ReLU) or the gated f(a, b) = gelu(a) * b of T5 v1.1.

    Args:
        inner: W_i, of a gated one both, the norm's gain folded in.
        out: W_o.
        epsilon: of the norm.
        function: f over what W_i gives; None is ReLU, of which a mask is kept, of others their argument.
    """

    inner: AbstractFrozenLinear
    out: AbstractFrozenLinear
    epsilon: float
    function: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        """The states behind it."""
        result: Tensor = _FeedForward.apply(x, self)  # pyright: ignore[reportAssignmentType]
        return result


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FeedForward) -> Tensor:
        n, inverse = normed(x, layer.epsilon)
        found = layer.inner.forward(n)
        ctx.layer = layer
        if layer.function is None:
            ctx.save_for_backward(n, inverse, found > 0)
            return layer.out.forward(found.clamp_min_(0)).add_(x)
        ctx.save_for_backward(n, inverse, found)
        return layer.out.forward(layer.function(found)).add_(x)

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), layer = gradients, ctx.layer
        n, inverse, kept = ctx.saved_tensors
        incoming = layer.out.backward(gradient)
        if layer.function is None:
            # As bytes: a product with booleans is three times slower.
            incoming.mul_(kept.view(torch.uint8))
        else:
            incoming = _gradient(layer.function, kept, incoming)
        return normed_back(layer.inner.backward(incoming), n, inverse).add_(gradient), None


def _gradient(function: Callable[[Tensor], Tensor], at: Tensor, incoming: Tensor) -> Tensor:
    """The gradient at a function's argument."""
    with torch.enable_grad():
        argument = at.detach().requires_grad_()
        return torch.autograd.grad(function(argument), argument, incoming)[0]


@final
@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """x + W_o [softmax(Q_h K_h^T) V_h]_h with Q = n W_q^T, and K = S W_k^T, V = S W_v^T of the encoder's states S.

    Few label positions *absorb* the projections: Q_h K_h^T = (Q_h W_k,h) S^T, and P_h V_h = (P_h S) W_v,h^T, so that no
    encoder state is projected (as in the latent attention of DeepSeek-V2, arXiv:2405.04434, section 2.1). Many label
    positions read plain keys and values.

    Args:
        query: W_q, the norm's gain folded in.
        key: W_k.
        value: W_v.
        out: W_o.
        heads: h.
        epsilon: of the norm.
        library: that multiplies float32 on a CPU.
    """

    query: AbstractFrozenLinear
    key: Float[Tensor, "hk d"]
    value: Float[Tensor, "hk d"]
    out: AbstractFrozenLinear
    heads: int
    epsilon: float
    library: Library

    def __call__(
        self, x: Float[Tensor, "q d"], states: Float[Tensor, "r d"], blocks: Sequence[Block], absorbed: bool
    ) -> Float[Tensor, "q d"]:
        """The states behind it.

        Args:
            x: the decoder's states, equally many for each row of the blocks.
            states: of the encoder, normed, gain and all.
            blocks: which of them make up a row.
            absorbed: whether the projections are.
        """
        query = self.query(norm(x, self.epsilon)).view(len(x), self.heads, -1)
        found = self._absorbed(query, states, blocks) if absorbed else self._plain(query, states, blocks)
        return x + self.out(found)

    def _absorbed(self, query: Tensor, states: Tensor, blocks: Sequence[Block]) -> Tensor:
        rows = sum(block.count for block in blocks)
        key, value = (w.view(self.heads, -1, states.shape[1]) for w in (self.key, self.value))
        asked = (query.transpose(0, 1) @ key).transpose(0, 1).reshape(rows, -1, states.shape[1])
        read: Tensor = _Read.apply(asked, states, blocks)  # pyright: ignore[reportAssignmentType]
        return (read.view(*query.shape[:2], -1).transpose(0, 1) @ value.mT).transpose(0, 1).flatten(1)

    def _plain(self, query: Tensor, states: Tensor, blocks: Sequence[Block]) -> Tensor:
        rows = sum(block.count for block in blocks)
        queries = query.view(rows, -1, *query.shape[1:]).split([block.count for block in blocks])
        sizes = [block.count * block.width for block in blocks]
        keys, values = (FrozenLinear(w, self.library)(states).split(sizes) for w in (self.key, self.value))
        found = []
        for block, *three in zip(blocks, queries, keys, values, strict=True):
            asked, key, value = (part.view(block.count, -1, *query.shape[1:]).transpose(1, 2) for part in three)
            mask = None if block.mask is None else block.mask[:, None, None]
            read = functional.scaled_dot_product_attention(asked, key, value, attn_mask=mask, scale=1.0)
            found.append(read.transpose(1, 2).flatten(2).flatten(0, 1))
        return torch.cat(found)


class _Read(torch.autograd.Function):
    """softmax(A S^T) S of each row of states, for queries A [b, q, d]."""

    @staticmethod
    def forward(ctx: Any, asked: Tensor, states: Tensor, blocks: Sequence[Block]) -> Tensor:
        read, kept = torch.empty_like(asked), []
        for block in blocks:
            own, queries = _rows(states, block), asked[block.rows]
            scores = (queries @ own.mT).to(_exact(asked.dtype))
            if block.mask is not None:
                scores.masked_fill_(~block.mask[:, None], -math.inf)
            kept.append(scores.softmax(-1).to(asked.dtype))
            torch.bmm(kept[-1], own, out=read[block.rows])
        ctx.blocks = blocks
        ctx.save_for_backward(asked, states, *kept)
        return read

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        asked, states, *kept = ctx.saved_tensors
        at_asked, at_states = torch.empty_like(asked), torch.empty_like(states)
        for block, probabilities in zip(ctx.blocks, kept, strict=True):
            own, queries, outward = _rows(states, block), asked[block.rows], gradient[block.rows]
            scores = _softmax_back(outward @ own.mT, probabilities)
            torch.bmm(scores, own, out=at_asked[block.rows])
            # Both ways in which the states act, scored and read, in one product.
            both = torch.cat([scores, probabilities], 1).mT, torch.cat([queries, outward], 1)
            torch.bmm(*both, out=_rows(at_states, block))
        return at_asked, at_states, None


def _rows(states: Tensor, block: Block) -> Tensor:
    return states[block.positions].view(block.count, block.width, -1)
