"""The angles between a prompt's vectors, and their norms during training."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadInput
from ..run_layout import METRICS
from ..training import read_record


def distinct(vectors: Float[Tensor, "n e"]) -> Float[Tensor, "m e"]:
    """Drop repeated vectors and keep the order of first occurrence: one of EPT*'s ten equal vectors stays.

    Vectors are equal if all their bits are. The cosine of 1 between repetitions would say nothing about the prompt.
    """
    places: dict[tuple[float, ...], int] = {}
    for place, vector in enumerate(vectors.tolist()):
        places.setdefault(tuple(vector), place)
    return vectors[list(places.values())]


def cosines(vectors: Float[Tensor, "m e"]) -> Float[Tensor, "m m"]:
    """Return the cosine between each two vectors, <v_i, v_j> / (||v_i|| ||v_j||), in float64.

    A zero vector has no direction, so its row and column are NaN.
    """
    vectors = vectors.detach().to("cpu", torch.float64)
    directions = vectors / vectors.norm(dim=1, keepdim=True)
    # Rounding may put the cosine of a vector with itself above 1.
    return (directions @ directions.T).clamp(-1, 1)


def mean_cosine(vectors: Float[Tensor, "m e"]) -> float | None:
    """Return the mean cosine over the pairs of distinct vectors, or None where there is no pair."""
    matrix = cosines(distinct(vectors))
    m = len(matrix)
    return None if m < 2 else matrix[~torch.eye(m, dtype=torch.bool)].mean().item()


@dataclass(frozen=True, kw_only=True)
class NormCurve:
    """The mean norm of a prompt's vectors over training, with one entry per step, before the update of that step.

    The entry of step 1 is therefore the norm of the initial prompt.

    Args:
        steps: optimiser steps.
        raw: mean norm in the model's own numbers (EPT, equation 4).
        token_norms: mean norm in token norms; None where the run did not record it.
    """

    steps: tuple[int, ...]
    raw: tuple[float, ...]
    token_norms: tuple[float | None, ...]


def norm_curve(prompt: Path | str) -> NormCurve:
    """Read the norms that training recorded in a prompt's metrics.jsonl.

    Args:
        prompt: the prompt's folder in a run.

    Raises:
        BadInput: the folder has no record, or the record is of a head without a prompt.
    """
    path = Path(prompt) / METRICS
    rows = [row for row in read_record(path) if row.get("prompt_norm") is not None]
    if not rows:
        fault = "records no prompt norm" if path.is_file() else "is missing"
        raise BadInput(f"{path} {fault}; give the folder of another prompt in a run, RUN/<method>-seed0")
    return NormCurve(
        steps=tuple(row["step"] for row in rows),
        raw=tuple(row["prompt_norm"] for row in rows),
        token_norms=tuple(row.get("token_norms") for row in rows),
    )
