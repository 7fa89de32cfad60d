"""Task losses, with one number per row. A fleet averages them per prompt, so there is no mean over the batch here."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

IGNORED = -100


def cross_entropy(
    logits: Float[Tensor, "b l v"], targets: Int[Tensor, "b l"], smoothing: float = 0.0
) -> Float[Tensor, " b"]:
    """Return the mean negative log-probability of each row's target tokens T, in nats: -1/|T| sum_{t in T} log p(y_t).

    It is computed in float32 at least, whatever the precision of the logits is.

    Args:
        logits: scores over the vocabulary, before the softmax.
        targets: token ids, and -100 where there is no target. The loss of a row without any target is NaN, not 0.
        smoothing: share s of the loss that all tokens have alike: (1 - s) CE + s mean_v(-log p_v).
    """
    losses = functional.cross_entropy(
        precise(logits).flatten(0, 1),
        targets.flatten().long(),
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=smoothing,
    )
    return losses.view(targets.shape).sum(-1) / (targets != IGNORED).sum(-1)


def squared_error(logits: Float[Tensor, "b 1 1"], targets: Float[Tensor, "b 1"]) -> Float[Tensor, " b"]:
    """Return (prediction - target)^2 of each row, in squared units of the target.

    It is computed in float32 at least, whatever the precision of the prediction is.
    """
    prediction = precise(logits)
    return (prediction[:, 0, 0] - targets[:, 0].to(prediction.dtype)).square()


def task_losses(logits: Float[Tensor, "b l v"], targets: Tensor, smoothing: float = 0.0) -> Float[Tensor, " b"]:
    """Return the task loss of each row: cross entropy in nats, or squared error where the target is a number."""
    return squared_error(logits, targets) if targets.is_floating_point() else cross_entropy(logits, targets, smoothing)


def wrong_tokens(logits: Float[Tensor, "b l v"], targets: Tensor) -> Bool[Tensor, " b"]:
    """Return for each row whether the most likely token is wrong at any label position; False for numbers."""
    if targets.is_floating_point():
        return torch.zeros_like(targets[:, 0], dtype=torch.bool)
    return ((logits.argmax(-1) != targets) & (targets >= 0)).any(1)


def precise(logits: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the logits in float32 at least, whatever the precision of the model is."""
    return logits if logits.dtype == torch.float64 else logits.float()
