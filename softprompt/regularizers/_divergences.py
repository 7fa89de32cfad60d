"""Divergences between two answers: one number per row, which is 0 for equal answers.

Shapes: b rows, l label positions, v tokens of the vocabulary (or classes). p is the clean answer, q the perturbed one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..losses import precise

LogProbabilities = Float[Tensor, "b l v"]
PerPosition = Float[Tensor, "b l"]


@final
@dataclass(frozen=True)
class Divergence:
    """A divergence D(p, q) at each label position, in nats unless its function says otherwise.

    Args:
        of: computes it from the logits of the clean and of the perturbed pass.
        stops_clean: whether no gradient flows into the clean pass, so that the graph of that pass can be freed early.
    """

    of: Callable[[Tensor, Tensor], PerPosition]
    stops_clean: bool


def kl(clean: Float[Tensor, "b l v"], perturbed: Float[Tensor, "b l v"]) -> PerPosition:
    """Return KL(p || q) = sum_v p (log p - log q), p without gradient (Miyato et al., 2018, arXiv:1704.03976)."""
    return _kl(clean.detach().log_softmax(-1), perturbed.log_softmax(-1))


def symmetric_kl(clean: Float[Tensor, "b l v"], perturbed: Float[Tensor, "b l v"]) -> PerPosition:
    """Return KL(p || q) + KL(q || p), each first argument without gradient (SMART, Jiang et al., 2020, eq. 2)."""
    return kl(clean, perturbed) + kl(perturbed, clean)


def both_kl(clean: Float[Tensor, "b l v"], perturbed: Float[Tensor, "b l v"]) -> PerPosition:
    """Return (KL(p || q) + KL(q || p)) / 2 with all gradients (R-Drop, Liang et al., 2021, arXiv:2106.14448, eq. 2)."""
    p, q = clean.log_softmax(-1), perturbed.log_softmax(-1)
    return (_kl(p, q) + _kl(q, p)) / 2


def jensen_shannon(clean: Float[Tensor, "b l v"], perturbed: Float[Tensor, "b l v"]) -> PerPosition:
    """Return (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, with all gradients. It is at most log 2."""
    p, q = clean.log_softmax(-1), perturbed.log_softmax(-1)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype, device=p.device))
    return (_kl(p, middle) + _kl(q, middle)) / 2


def squared_error(clean: Float[Tensor, "b l v"], perturbed: Float[Tensor, "b l v"]) -> PerPosition:
    """Return sum_v (p - q)^2, p without gradient, of probabilities, or of the output itself if there is only one."""
    if clean.shape[-1] > 1:
        clean, perturbed = clean.softmax(-1), perturbed.softmax(-1)
    return (clean.detach() - perturbed).square().sum(-1)


DIVERGENCES: Mapping[str, Divergence] = {
    "kl": Divergence(kl, stops_clean=True),
    "symmetric-kl": Divergence(symmetric_kl, stops_clean=False),
    "both-kl": Divergence(both_kl, stops_clean=False),
    "js": Divergence(jensen_shannon, stops_clean=False),
    "squared-error": Divergence(squared_error, stops_clean=True),
}


def row_divergences(
    divergence: Divergence,
    clean: Float[Tensor, "b l v"],
    perturbed: Float[Tensor, "b l v"],
    positions: Bool[Tensor, "b l"],
    allowed: Bool[Tensor, "l v"] | None = None,
) -> Float[Tensor, " b"]:
    """Return the mean divergence of each row over its label positions, in float32 at least.

    Args:
        divergence: the divergence of one position.
        clean: logits of the clean pass.
        perturbed: logits of the perturbed pass.
        positions: True where there is a label.
        allowed: the tokens that label words have at each position; None takes the whole vocabulary.
    """
    clean, perturbed = precise(clean), precise(perturbed)
    if allowed is not None:
        # Not minus infinity: 0 times infinity is NaN.
        lowest = torch.finfo(clean.dtype).min / 4
        clean, perturbed = (x.masked_fill(~allowed[: x.shape[1]], lowest) for x in (clean, perturbed))
    per_position = divergence.of(clean, perturbed).masked_fill(~positions, 0)
    return per_position.sum(1) / positions.sum(1)


def _kl(p: LogProbabilities, q: LogProbabilities) -> PerPosition:
    return functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
