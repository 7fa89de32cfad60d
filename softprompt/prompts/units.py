"""The size of a model's word vectors: the units that a prompt is trained in and its norm is told in."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadInput

# Mean norms of a prompt, in token norms: where prompts were seen to learn well, and where they were seen to fail.
BAND = (1.0, 10.0)
OVER_EXPLODED = 30.0
TOO_SMALL = 0.3


@dataclass(frozen=True, kw_only=True)
class WordScale:
    """How large the rows E_i of an embedding table [v, e] are.

    Args:
        rms: sqrt(mean(E^2)), the root mean square over all its numbers: one unit of `--units rms`.
        token_norm: mean_i ||E_i||_2, what norms are told in.
    """

    rms: float
    token_norm: float

    @classmethod
    def of(cls, table: Float[Tensor, "v e"]) -> "WordScale":
        """The scale of a table, in float64.

        Raises:
            BadInput: a table of zeros, or of numbers that are not finite.
        """
        # In pieces: a large vocabulary in float64 would take more memory than the model.
        pieces = table.detach().split(8192)
        norms = torch.cat([torch.linalg.vector_norm(rows.to("cpu", torch.float64), dim=1) for rows in pieces])
        rms = math.sqrt(norms.square().mean().item() / table.shape[1])
        if not (math.isfinite(rms) and rms > 0):
            raise BadInput(
                f"the root mean square of this model's word vectors is {rms:g}, so no prompt can be measured by them; "
                "load a model with trained embeddings"
            )
        return cls(rms=rms, token_norm=norms.mean().item())

    @classmethod
    def of_states(cls, states: Float[Tensor, "k d"]) -> "WordScale":
        """The scale of the states h_i inside a model, in float64: median_i ||h_i|| / sqrt(d), and median_i ||h_i||.

        Medians, for the states at a few positions are a hundred times the others' (Llama's at the first token), and no
        prompt should be measured by them.

        Raises:
            BadInput: states of zeros, or that are not finite.
        """
        norm = torch.linalg.vector_norm(states.detach().to("cpu", torch.float64), dim=1).median().item()
        if not (math.isfinite(norm) and norm > 0):
            raise BadInput(f"the states of this model have norm {norm:g}, so no deep prompt can be measured by them")
        return cls(rms=norm / math.sqrt(states.shape[1]), token_norm=norm)


@torch.no_grad()
def prompt_norm(vectors: Float[Tensor, "m e"]) -> float | None:
    """Mean l2 norm of a prompt's vectors (EPT, equation 4); None where there are none."""
    return vectors.norm(dim=1).mean().item() if len(vectors) else None


def told(norm: float, token_norm: float | None) -> str:
    """A norm as people read it: "812 = 2.7 token norms (band 1-10)"; the norm alone if a token's is not known."""
    if token_norm is None:
        return f"{norm:.4g}"
    low, high = BAND
    share = norm / token_norm
    place = "below the " if share < low else "above the " if share > high else ""
    return f"{norm:.4g} = {share:.3g} token norms ({place}band {low:g}-{high:g})"


def norm_warning(
    token_norms: float,
    *,
    one_vector: bool,
    lr: float | None = None,
    units: str | None = None,
    has_radius: bool = False,
) -> str | None:
    """What is wrong with a prompt of this norm and what to do; None if nothing is.

    Args:
        token_norms: mean norm of its vectors, in token norms.
        one_vector: whether a single vector is stored; only then is a small norm known to fail.
        lr: learning rate it was trained with, if known.
        units: "raw" or "rms", if known.
        has_radius: whether its norm is an option of the method, as polar's.
    """
    now = "" if lr is None else f" (now {lr:g})"
    norm = f"its norm is {token_norms:.3g} token norms (band {BAND[0]:g}-{BAND[1]:g})"
    if token_norms > OVER_EXPLODED:
        remedy = "lower the radius" if has_radius else f"lower the learning rate{now}"
        return f"over-exploded: {norm}; {remedy}, or set --max-norm {BAND[1]:g}"
    if one_vector and token_norms < TOO_SMALL:
        remedy = f"a higher learning rate{now}" if units == "rms" else f"--units rms, or a higher learning rate{now}"
        remedy = "a larger radius" if has_radius else remedy
        return f"too small to be more than its own residual updates: {norm}; try {remedy}"
    return None
