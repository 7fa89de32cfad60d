"""Lengths and angles of a prompt's vectors, and how their lengths went in training."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadInput
from ..training import read_record


def distinct(vectors: Float[Tensor, "n e"]) -> Float[Tensor, "m e"]:
    """The vectors without repetitions, each where it comes first: of EPT*'s ten equal ones, one.

    Equal to the last bit; a repeated vector would count as m perfect similarities that say nothing.
    """
    places: dict[tuple[float, ...], int] = {}
    for place, vector in enumerate(vectors.tolist()):
        places.setdefault(tuple(vector), place)
    return vectors[list(places.values())]


def cosines(vectors: Float[Tensor, "m e"]) -> Float[Tensor, "m m"]:
    """Cosine of the angle between each two vectors: <v_i, v_j> / (||v_i|| ||v_j||), in float64.

    A zero vector has no direction: its row and column are NaN.
    """
    vectors = vectors.detach().to("cpu", torch.float64)
    directions = vectors / vectors.norm(dim=1, keepdim=True)
    # Rounding may take a vector's cosine with itself beyond 1.
    return (directions @ directions.T).clamp(-1, 1)


def mean_cosine(vectors: Float[Tensor, "m e"]) -> float | None:
    """Mean cosine over the pairs of different vectors, repetitions counted once; None where there is no pair."""
    matrix = cosines(distinct(vectors))
    m = len(matrix)
    return None if m < 2 else matrix[~torch.eye(m, dtype=torch.bool)].mean().item()


def norms(vectors: Float[Tensor, "m e"], token_norm: float = 1.0) -> Float[Tensor, " m"]:
    """The l2 norm of each vector, in float64, in units of `token_norm`.

    Args:
        vectors: of a prompt.
        token_norm: mean norm of a word vector (`WordScale.token_norm`); 1 leaves the model's own numbers.

    Raises:
        BadInput: a token norm that is not positive and finite.
    """
    if not (math.isfinite(token_norm) and token_norm > 0):
        raise BadInput(f"norms are told in units of a token's norm, which is positive, not {token_norm:g}")
    return vectors.detach().to("cpu", torch.float64).norm(dim=1) / token_norm


@dataclass(frozen=True, kw_only=True)
class NormCurve:
    """Mean norm of a prompt's vectors over training, one entry a step: as the step's pass saw them, before its update.

    The entry of step 1 is that of the initial prompt.

    Args:
        steps: optimiser steps.
        raw: mean norm in the model's own numbers (EPT, equation 4).
        token_norms: the same in token norms; None where the run did not record it.
    """

    steps: tuple[int, ...]
    raw: tuple[float, ...]
    token_norms: tuple[float | None, ...]


def norm_curve(prompt: Path | str) -> NormCurve:
    """The norms that training recorded in a prompt's metrics.jsonl.

    Args:
        prompt: the prompt's folder in a run.

    Raises:
        BadInput: no record there, or one of a head without a prompt.
    """
    path = Path(prompt) / "metrics.jsonl"
    rows = [row for row in read_record(path) if row.get("prompt_norm") is not None]
    if not rows:
        raise BadInput(f"{path} records no prompt norm; give the folder of a prompt in a run, RUN/<method>-seed0")
    return NormCurve(
        steps=tuple(row["step"] for row in rows),
        raw=tuple(row["prompt_norm"] for row in rows),
        token_norms=tuple(row.get("token_norms") for row in rows),
    )
