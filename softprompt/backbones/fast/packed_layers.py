"""The three sublayers of T5 over packed positions, each as one function with its backward pass written by hand.

Every sublayer reads n = x / rms(x), where rms(x) = sqrt(mean(x^2) + eps). The gain of the norm is folded into the
linear layer after it. Frozen weights need no gradient. A backward pass therefore needs the matrix of a linear layer, n
and 1/rms of a norm, the queries, keys and values of an attention, and one byte per number of a ReLU. The attention
probabilities are computed again instead of being kept: softmax(Q K^T + B) costs one product, in addition to the four
products of the backward pass.
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
    """Return x / rms(x), and 1 / rms(x) in float32 at least (Zhang and Sennrich, 2019, arXiv:1910.07467)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_()
    inverse = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * inverse).to(x.dtype), inverse


def normed_back(
    gradient: Float[Tensor, "r d"], n: Float[Tensor, "r d"], inverse: Float[Tensor, "r 1"]
) -> Float[Tensor, "r d"]:
    """Return the gradient at x, given that at n: dx = (dn - n mean(dn n)) / rms. It may overwrite `gradient`."""
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
    """Return x / rms(x), with its gradient."""
    result: Tensor = _Norm.apply(x, epsilon)  # pyright: ignore[reportAssignmentType]  (apply is untyped)
    return result


@final
@dataclass(frozen=True, kw_only=True)
class SelfAttention:
    """x + W_o [softmax(Q_h K_h^T + B_h) V_h]_h with [Q K V] = n W_qkv^T, separately for each row.

    T5 does not divide the scores by sqrt(d_kv).

    Args:
        qkv: queries, keys and values as one product, with the gain of the norm folded in.
        out: W_o.
        heads: number of heads h.
        epsilon: epsilon of the norm.
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
        """Return the states after the sublayer.

        Args:
            x: the states before the sublayer.
            blocks: the blocks, which say which positions make up a row.
            biases: B of each block, [h, w, w] or [c, h, w, w] with -inf at padding.
            rows: the only positions whose gradient is needed; None takes all positions.
        """
        result: Tensor = _SelfAttention.apply(x, self, blocks, biases, rows)  # pyright: ignore[reportAssignmentType]  (apply is untyped)
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
        # The other positions are word vectors, whose gradient is not needed.
        at_rows = normed_back(layer.qkv.backward(inner[ctx.rows]), n, inverse).add_(gradient[ctx.rows])
        return torch.zeros_like(gradient).index_copy_(0, ctx.rows, at_rows), None, None, None, None


def _heads(states: Tensor, block: Block, heads: int, parts: int) -> Sequence[Tensor]:
    """Split states [c w, parts h k] into `parts` tensors [c h, w, k], which are views if the block is one row."""
    apart = states.view(block.count, block.width, parts, heads, -1).permute(2, 0, 3, 1, 4).to(_exact(states.dtype))
    return apart.reshape(parts, block.count * heads, block.width, -1).unbind()


def _into(states: Tensor, block: Block, *parts: Tensor) -> None:
    """Write tensors [c h, w, k] into states [c w, parts h k], as the inverse of `_heads`."""
    heads = parts[0].shape[0] // block.count
    apart = states.view(block.count, block.width, len(parts), heads, -1)
    for number, part in enumerate(parts):
        apart[:, :, number].copy_(part.view(block.count, heads, block.width, -1).transpose(1, 2))


def _exact(dtype: torch.dtype) -> torch.dtype:
    """Return the precision of the scores. bfloat16 has three digits, which is too few for the sums in a softmax."""
    return torch.promote_types(dtype, torch.float32)


def _probabilities(
    query: Float[Tensor, "ch w k"], key: Float[Tensor, "ch w k"], bias: Float[Tensor, "*c h w w"]
) -> Float[Tensor, "ch w w"]:
    """Return softmax(Q K^T + B)."""
    scores = query @ key.mT
    scores.view(-1, *bias.shape[-3:]).add_(bias)
    return scores.softmax(-1)


def _softmax_back(gradient: Tensor, probabilities: Tensor) -> Tensor:
    """Return dS = P * (dP - sum(dP * P)). It overwrites `gradient`."""
    return gradient.sub_((gradient * probabilities).sum(-1, keepdim=True)).mul_(probabilities)


@final
@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """x + W_o f(W_i n), where f has one argument (ReLU) or is the gated f(a, b) = gelu(a) * b of T5 v1.1.

    Args:
        inner: W_i, or both matrices W_i of a gated layer, with the gain of the norm folded in.
        out: W_o.
        epsilon: epsilon of the norm.
        function: f of the output of W_i. None means ReLU, for which the graph keeps a mask instead of the argument.
    """

    inner: AbstractFrozenLinear
    out: AbstractFrozenLinear
    epsilon: float
    function: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        """Return the states after the sublayer."""
        result: Tensor = _FeedForward.apply(x, self)  # pyright: ignore[reportAssignmentType]  (apply is untyped)
        return result


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FeedForward) -> Tensor:
        n, inverse = normed(x, layer.epsilon)
        hidden = layer.inner.forward(n)
        ctx.layer = layer
        if layer.function is None:
            ctx.save_for_backward(n, inverse, hidden > 0)
            return layer.out.forward(hidden.clamp_min_(0)).add_(x)
        ctx.save_for_backward(n, inverse, hidden)
        return layer.out.forward(layer.function(hidden)).add_(x)

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), layer = gradients, ctx.layer
        n, inverse, kept = ctx.saved_tensors
        incoming = layer.out.backward(gradient)
        if layer.function is None:
            # The mask is read as bytes, because a product with booleans is three times as slow.
            incoming.mul_(kept.view(torch.uint8))
        else:
            incoming = _gradient(layer.function, kept, incoming)
        return normed_back(layer.inner.backward(incoming), n, inverse).add_(gradient), None


def _gradient(function: Callable[[Tensor], Tensor], at: Tensor, incoming: Tensor) -> Tensor:
    """Return the gradient with respect to the argument of a function."""
    with torch.enable_grad():
        argument = at.detach().requires_grad_()
        return torch.autograd.grad(function(argument), argument, incoming)[0]


@final
@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """x + W_o [softmax(Q_h K_h^T) V_h]_h with Q = n W_q^T, K = S W_k^T, V = S W_v^T, for the encoder's states S.

    If there are few label positions, they *absorb* the projections: Q_h K_h^T = (Q_h W_k,h) S^T and P_h V_h =
    (P_h S) W_v,h^T. No encoder state is then projected, as in the latent attention of DeepSeek-V2 (arXiv:2405.04434,
    section 2.1). If there are many label positions, they read projected keys and values.

    Args:
        query: W_q, with the gain of the norm folded in.
        key: W_k.
        value: W_v.
        out: W_o.
        heads: number of heads h.
        epsilon: epsilon of the norm.
        library: the library that multiplies float32 on a CPU.
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
        """Return the states after the sublayer.

        Args:
            x: the decoder's states, the same number for each row of the blocks.
            states: the encoder's states after its last norm, gain included.
            blocks: the blocks, which say which encoder states make up a row.
            absorbed: whether the label positions absorb the projections.
        """
        query = self.query(norm(x, self.epsilon)).view(len(x), self.heads, -1)
        context = self._absorbed(query, states, blocks) if absorbed else self._plain(query, states, blocks)
        return x + self.out(context)

    def _absorbed(self, query: Tensor, states: Tensor, blocks: Sequence[Block]) -> Tensor:
        rows = sum(block.count for block in blocks)
        key, value = (w.view(self.heads, -1, states.shape[1]) for w in (self.key, self.value))
        queries = (query.transpose(0, 1) @ key).transpose(0, 1).reshape(rows, -1, states.shape[1])
        read: Tensor = _Read.apply(queries, states, blocks)  # pyright: ignore[reportAssignmentType]  (apply is untyped)
        return (read.view(*query.shape[:2], -1).transpose(0, 1) @ value.mT).transpose(0, 1).flatten(1)

    def _plain(self, query: Tensor, states: Tensor, blocks: Sequence[Block]) -> Tensor:
        rows = sum(block.count for block in blocks)
        queries = query.view(rows, -1, *query.shape[1:]).split([block.count for block in blocks])
        sizes = [block.count * block.width for block in blocks]
        keys, values = (FrozenLinear(w, self.library)(states).split(sizes) for w in (self.key, self.value))
        contexts = []
        for block, *parts in zip(blocks, queries, keys, values, strict=True):
            by_head = (part.view(block.count, -1, *query.shape[1:]).transpose(1, 2) for part in parts)
            mask = None if block.mask is None else block.mask[:, None, None]
            read = functional.scaled_dot_product_attention(*by_head, attn_mask=mask, scale=1.0)
            contexts.append(read.transpose(1, 2).flatten(2).flatten(0, 1))
        return torch.cat(contexts)


class _Read(torch.autograd.Function):
    """The function softmax(Q S^T) S for the states S of each row and queries Q [b, q, d]."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, states: Tensor, blocks: Sequence[Block]) -> Tensor:
        read, kept = torch.empty_like(queries), []
        for block in blocks:
            block_states, block_queries = _rows(states, block), queries[block.rows]
            scores = (block_queries @ block_states.mT).to(_exact(queries.dtype))
            if block.mask is not None:
                scores.masked_fill_(~block.mask[:, None], -math.inf)
            kept.append(scores.softmax(-1).to(queries.dtype))
            torch.bmm(kept[-1], block_states, out=read[block.rows])
        ctx.blocks = blocks
        ctx.save_for_backward(queries, states, *kept)
        return read

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        queries, states, *kept = ctx.saved_tensors
        at_queries, at_states = torch.empty_like(queries), torch.empty_like(states)
        for block, probabilities in zip(ctx.blocks, kept, strict=True):
            block_states, outward = _rows(states, block), gradient[block.rows]
            scores = _softmax_back(outward @ block_states.mT, probabilities)
            torch.bmm(scores, block_states, out=at_queries[block.rows])
            # The states act as keys and as values. One product gives the sum of both gradients.
            both = torch.cat([scores, probabilities], 1).mT, torch.cat([queries[block.rows], outward], 1)
            torch.bmm(*both, out=_rows(at_states, block))
        return at_queries, at_states, None


def _rows(states: Tensor, block: Block) -> Tensor:
    return states[block.positions].view(block.count, block.width, -1)
