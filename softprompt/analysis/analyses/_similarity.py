"""Cosines between the vectors of a prompt, and between prompts (EPT, figures 3 and 10)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry import cosines, distinct, mean_cosine
from ._base import NO_MODEL, NO_ROWS, Analysis, Values, short
from ._bench import Bench, refuse_none

# Title of the matrix over all prompts.
BETWEEN = "between prompts"


def between(prompts: list[Tensor]) -> Float[Tensor, "p p"]:
    """The cosine between the mean vectors of each two prompts."""
    return cosines(torch.stack([vectors.double().mean(0) for vectors in prompts]))


def compute(bench: Bench) -> Values:
    """The matrix of each prompt, and one over all prompts."""
    for subject in bench.subjects:
        refuse_none(subject, "similarity")
    bench.refuse_mixed("similarity")
    prompts = [
        {
            "prompt": subject.label,
            "mean": mean_cosine(subject.prompt.vectors),
            "matrix": cosines(distinct(subject.prompt.vectors)).tolist(),
        }
        for subject in bench.subjects
    ]
    return {"prompts": prompts, "between": between([s.prompt.vectors for s in bench.subjects]).tolist()}


def draw(values: Values, figures: Any) -> Any:
    """A matrix for each prompt of several vectors, and the last one over all prompts."""
    names = short(values)
    matrices = {name: p["matrix"] for name, p in zip(names, values["prompts"], strict=True) if len(p["matrix"]) > 1}
    if len(names) > 1:
        matrices[BETWEEN] = values["between"]
    return figures.similarity_figure(matrices or {"one vector": values["prompts"][0]["matrix"]}, names={BETWEEN: names})


def rows(values: Values) -> list[dict[str, Any]]:
    """The mean cosine within each prompt, and to the others."""
    return [
        {"prompt": p["prompt"], "vectors": len(p["matrix"]), "mean cosine": p["mean"], "to the others": _mean(n, line)}
        for n, (p, line) in enumerate(zip(values["prompts"], values["between"], strict=True))
    ]


def _mean(place: int, line: list[float]) -> float | None:
    others = [value for number, value in enumerate(line) if number != place]
    return sum(others) / len(others) if others else None


SIMILARITY = Analysis(
    "cosines within a prompt, and between prompts (EPT, figures 3 and 10)",
    compute, draw, rows, ignores=NO_ROWS | NO_MODEL,
)  # fmt: skip
