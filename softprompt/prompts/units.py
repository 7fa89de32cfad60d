"""The size of a model's word vectors, which gives the units for training a prompt and for reporting its norm."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadInput

# Mean norms of a prompt, in token norms. Prompts within BAND learned well; those beyond the other two bounds failed.
BAND = (1.0, 10.0)
OVER_EXPLODED = 30.0
TOO_SMALL = 0.3


@dataclass(frozen=True, kw_only=True)
class WordScale:
    """The size of the rows E_i of an embedding table [v, e].

    Args:
        rms: sqrt(mean(E^2)), the root mean square over all its numbers: one unit of `--units rms`.
        token_norm: mean_i ||E_i||_2, the unit in which norms are reported.
    """

    rms: float
    token_norm: float

    @classmethod
    def of(cls, table: Float[Tensor, "v e"]) -> "WordScale":
        """Measure an embedding table in float64.

        Raises:
            BadInput: the table holds only zeros, or numbers that are not finite.
        """
        # The table is converted in pieces: a large vocabulary in float64 would take more memory than the model.
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
        """Measure the states h_i inside a model in float64: median_i ||h_i|| / sqrt(d), and median_i ||h_i||.

        The median is used because the states at a few positions are about a hundred times as large as the others
        (in Llama those at the first token), and they should not set the scale of a prompt.

        Raises:
            BadInput: the median norm is zero or not finite.
        """
        norm = torch.linalg.vector_norm(states.detach().to("cpu", torch.float64), dim=1).median().item()
        if not (math.isfinite(norm) and norm > 0):
            raise BadInput(f"the states of this model have norm {norm:g}, so no deep prompt can be measured by them")
        return cls(rms=norm / math.sqrt(states.shape[1]), token_norm=norm)


@torch.no_grad()
def prompt_norm(vectors: Float[Tensor, "m e"]) -> float | None:
    """Return the mean l2 norm of a prompt's vectors (EPT, equation 4), or None if it has no vectors."""
    return vectors.norm(dim=1).mean().item() if len(vectors) else None


def format_norm(norm: float, token_norm: float | None) -> str:
    """Format a norm as in "812 = 2.7 token norms (band 1-10)", or the norm alone if `token_norm` is None."""
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
    """Explain what is wrong with the norm of a prompt and what to do about it; None if nothing is wrong.

    Args:
        token_norms: mean norm of the prompt's vectors, in token norms.
        one_vector: whether the prompt stores a single vector. A small norm is known to fail only then.
        lr: learning rate of the training, if known.
        units: "raw" or "rms", if known.
        has_radius: whether the method sets the norm by an option, as polar does.
    """
    now = "" if lr is None else f" (now {lr:g})"
    norm = f"its norm is {token_norms:.3g} token norms (band {BAND[0]:g}-{BAND[1]:g})"
    if token_norms > OVER_EXPLODED:
        remedy = "lower the radius" if has_radius else f"lower the learning rate{now}"
        return f"over-exploded: {norm}; {remedy}, or set --max-norm {BAND[1]:g}"
    if one_vector and token_norms < TOO_SMALL:
        remedy = f"a higher learning rate{now}" if units == "rms" else f"--units rms, or a higher learning rate{now}"
        remedy = "a larger radius" if has_radius else remedy
        return f"too small: the layers add more at its positions than the prompt itself is; {norm}; try {remedy}"
    return None
