"""The attention between the layers of transformers: each row sees its prompt and itself."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .groups import Group
from .layout import Layout
from .switch import NAME, chosen_by_user, current_layout

once: Any = once_differentiable
# Pairs of query and key up to which a formula over whole matrices is faster backwards than torch's own kernel on a CPU:
# 1.7 times at 30 x 30, while that kernel is 1.5 times as fast at 20 x 150.
SHORT = 2048


@final
@dataclass(frozen=True)
class Seen:
    """What a layer is given in the place of its mask: the calls of its attention, each with its mask."""

    calls: tuple[tuple[Group, Tensor], ...]
    layout: Layout
    rule: Callable[..., Tensor]
    # The layer is called to find its keys and values only.
    finds_keys: bool = False
    # Keys and values of all positions, where the layer is called with the queries only.
    known: tuple[Tensor, Tensor] | None = None

    def finding_keys(self) -> "Seen":
        """Return the same for a call that ends where the attention begins."""
        return Seen((), self.layout, self.rule, finds_keys=True)

    def asked(self, key: Tensor, value: Tensor) -> "Seen":
        """Return the calls over the queries alone, given keys and values of all positions."""
        calls = tuple((group, group.visible(self.rule)) for group in self.layout.asked)
        return Seen(calls, self.layout, self.rule, known=(key, value))


class KeysFound(Exception):
    """The keys and values of a layer, which was called for nothing else."""

    def __init__(self, key: Tensor, value: Tensor):
        super().__init__("keys and values of the layer")
        self.key, self.value = key, value


class Unfit(Exception):
    """The attention of a model is of a kind that this engine does not compute."""


def register() -> None:
    """Tell transformers of our attention and its masks, once a process."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    if NAME not in AttentionInterface():
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, _mask)


def _mask(*arguments: Any, mask_function: Callable[..., Tensor], use_vmap: bool = False, **options: Any) -> Any:
    """Return what our attention needs in the place of a mask."""
    layout = current_layout()
    if layout is None:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

        theirs = ALL_MASK_ATTENTION_FUNCTIONS[chosen_by_user(options["config"])]
        return theirs(*arguments, mask_function=mask_function, use_vmap=use_vmap, **options)
    if use_vmap:
        raise Unfit("its masks depend on more than positions")
    calls = tuple((group, group.visible(mask_function)) for group in layout.whole)
    return Seen(calls, layout, mask_function)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *arguments: Any, **options: Any
) -> tuple[Tensor, None]:
    """Return the context of each position, [1, r, h, d], in the manner of transformers' attention functions."""
    if not isinstance(attention_mask, Seen):
        return _theirs(module)(module, query, key, value, attention_mask, *arguments, **options)
    if attention_mask.finds_keys:
        raise KeysFound(key, value)
    if attention_mask.known is not None:
        key, value = attention_mask.known
    scale = options.get("scaling")
    scores = Scores(
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    context: Tensor = _Attention.apply(query[0], key[0], value[0], attention_mask.calls, scores)  # pyright: ignore
    return context[None], None


def _theirs(module: Any) -> Callable[..., Any]:
    """Return the attention function that the user chose for a model."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = chosen_by_user(module.config)
    if before in ALL_ATTENTION_FUNCTIONS:
        return ALL_ATTENTION_FUNCTIONS[before]
    return sys.modules[type(module).__module__].eager_attention_forward


@final
@dataclass(frozen=True)
class Scores:
    """How scores are made: their scale, the cap that a tanh puts on them, and one more score a head (sinks)."""

    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None

    def context(
        self, q: Float[Tensor, "c h q d"], k: Float[Tensor, "c g m d"], v: Float[Tensor, "c g m d"], seen: Tensor
    ) -> Float[Tensor, "c h q d"]:
        """Return softmax(scores) v."""
        is_plain, copies = self.softcap is None and self.sinks is None, q.shape[1] // k.shape[1]
        if is_plain and q.device.type == "cpu":
            return functional.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, scale=self.scale, enable_gqa=copies > 1
            )
        # With a mask, kernels of a GPU want as many heads of keys as of queries.
        k, v = (x if copies == 1 else x.repeat_interleave(copies, 1) for x in (k, v))
        if is_plain:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=self.scale)
        scores = q @ k.transpose(2, 3) * self.scale
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        wide = torch.promote_types(scores.dtype, torch.float32)
        scores = scores.to(wide).masked_fill(~seen, -torch.inf)
        if self.sinks is not None:
            sinks = self.sinks.to(wide).view(1, -1, 1, 1).expand(len(q), -1, q.shape[2], 1)
            scores = torch.cat([scores, sinks], -1)
        weights = scores.softmax(-1)[..., : k.shape[2]]
        return weights.to(v.dtype) @ v

    def gradients(self, parts: Sequence[Tensor], seen: Tensor, gradient: Float[Tensor, "c h q d"]) -> Sequence[Tensor]:
        """Return the gradients of queries, keys and values, given that of the context."""
        q, k, _ = parts
        is_plain = self.softcap is None and self.sinks is None
        is_exact = q.device.type == "cpu" and q.dtype in (torch.float32, torch.float64)
        if is_plain and is_exact and q.shape[2] * k.shape[2] <= SHORT:
            return self._by_formula(parts, seen, gradient)
        leaves = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            context = self.context(leaves[0], leaves[1], leaves[2], seen)
        return torch.autograd.grad(context, leaves, gradient)

    def _by_formula(self, parts: Sequence[Tensor], seen: Tensor, gradient: Tensor) -> Sequence[Tensor]:
        """Return the gradients of P V with P = softmax(scale Q K^T); heads that share keys are rows of one matrix."""
        c, g, m, _ = parts[1].shape
        h, n = parts[0].shape[1:3]
        q, k, v, d_context = (x.reshape(c * g, -1, x.shape[3]) for x in (*parts, gradient))
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(self.scale).view(c, h, n, m).masked_fill_(~seen, -torch.inf)
        p = scores.softmax(-1).view(c * g, -1, m)
        dp = torch.bmm(d_context, v.transpose(1, 2))
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * self.scale
        found = torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), torch.bmm(p.transpose(1, 2), d_context)
        return [x.view(part.shape) for x, part in zip(found, parts, strict=True)]


class _Attention(torch.autograd.Function):
    """The attention of all groups. It keeps queries, keys and values once, and computes each group again backwards."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, calls: Sequence[tuple[Group, Tensor]], scores: Scores
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.calls, ctx.scores = calls, scores
        q, k, v = (x.transpose(0, 1) for x in (query, key, value))
        context = v.new_empty(q.shape[0], q.shape[1], v.shape[2])
        for group, seen in calls:
            part = scores.context(*_gathered(group, q, k, v), seen)
            chosen, places = group.answered
            context[places] = part.transpose(1, 2).flatten(0, 1)[chosen]
        return context

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        q, k, v = (x.transpose(0, 1) for x in ctx.saved_tensors)
        dq, dk, dv = (x.new_zeros(x.shape) for x in (q, k, v))
        (gradient,) = gradients
        for group, seen in ctx.calls:
            chosen, places = group.answered
            ours = gradient[places]
            if len(chosen) < group.queries.numel():
                ours = ours.new_zeros(group.queries.numel(), *ours.shape[1:]).index_copy_(0, chosen, ours)
            ours = ours.unflatten(0, group.queries.shape).transpose(1, 2)
            d_query, d_key, d_value = ctx.scores.gradients(_gathered(group, q, k, v), seen, ours)
            dq[places] = d_query.transpose(1, 2).flatten(0, 1)[chosen]
            _add(group, dk, d_key)
            _add(group, dv, d_value)
        return dq.transpose(0, 1), dk.transpose(0, 1), dv.transpose(0, 1), None, None


def _gathered(
    group: Group, q: Float[Tensor, "r h d"], k: Float[Tensor, "s g d"], v: Float[Tensor, "s g d"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [c, h, q, d], and keys and values [c, g, m, d] of each row after those of its prefix."""
    return _taken(q, group.queries), _taken(k, group.keys), _taken(v, group.keys)


def _taken(x: Float[Tensor, "r h d"], places: Tensor) -> Float[Tensor, "c h q d"]:
    # Keys from a cache lie in memory by heads: each head is then gathered from a memory of its own.
    if x.stride(0) < x.stride(1):
        return x.transpose(0, 1).index_select(1, places.flatten()).unflatten(1, places.shape).transpose(0, 1)
    return x.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)


def _add(group: Group, total: Float[Tensor, "s g d"], gradient: Float[Tensor, "c g m d"]) -> None:
    """Add the gradients of a group's keys at their places."""
    u, n = group.prefixes.shape
    chosen, places = group.added
    total.index_add_(0, places, gradient[:, :, n:].transpose(1, 2).flatten(0, 1)[chosen])
    if not n:
        return
    before = gradient[:, :, :n].transpose(1, 2)
    summed = before.sum(0, keepdim=True) if u == 1 else before.new_zeros(u, *before.shape[1:])
    if u > 1:
        summed.index_add_(0, group.owners, before)
    # Padded places repeat a place, and their gradients are 0.
    total.index_add_(0, group.prefixes.flatten(), summed.flatten(0, 1))
