"""A warning at the start of a run whose frozen model rounds so much that a prompt's gradient points elsewhere."""

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones import exact_products, rounds
from ..prompts.batch import TextBatch
from ._advice import ADVICE
from ._loop import Loop
from ._member import FleetMember
from ._step import backward

log = logging.getLogger(ADVICE)

# Rows that are looked at: two passes over them cost less than one step of most runs.
PROBED_ROWS = 4
# Cosine below which the gradients count as different. A step along such a gradient loses a tenth of its length.
SPOILED = 0.9


def warn_of_rounding(loop: Loop) -> None:
    """Warn if rounded products change the gradient of the run's first prompt on a few training rows.

    The gradient is compared with that of the same weights whose products round neither inputs nor gradients. What the
    rounding of the weights themselves changes is not seen: the weights before it are not there.
    """
    backbone, train = loop.run_data.backbone, loop.run_data.train
    members = [member for member in loop.active if member.trainable.prompt_parameters()]
    if not rounds(backbone) or not members:
        return
    rows = members[0].rows[:PROBED_ROWS]
    batch = train.batch(rows, 0, backbone.pad_id).to(backbone.device)
    rounded = _gradient(loop, members[0], batch)
    with exact_products(backbone):
        exact = _gradient(loop, members[0], batch)
    cosine = torch.nn.functional.cosine_similarity(rounded, exact, dim=0).item()
    if cosine < SPOILED:
        form = backbone.quantize or str(backbone.dtype).removeprefix("torch.")
        log.warning(
            f"{form} products spoil the prompt's gradient: on {len(rows)} training rows its cosine with that of exact "
            f"products is {cosine:.2f} (below {SPOILED}); train in float32, and use the prompt in {form} if you like"
        )


def _gradient(loop: Loop, member: FleetMember, batch: TextBatch) -> Float[Tensor, " k"]:
    """Return the gradient of all numbers of a prompt; nothing of it stays behind."""
    parameters = member.trainable.prompt_parameters()
    backward(loop.run_data.backbone, [member.trainable.eval()], batch, [0], loop.plain)
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    member.trainable.zero_grad(set_to_none=True)
    return gradient.float()
