"""The two opposite groups of a prompt's vectors, each without the other (EPT, appendix A.1)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...backbones import AbstractBackbone
from ...prompts.prompt import SoftPrompt
from ..geometry import cosines
from ._base import Analysis, Values, short
from ._bench import Bench, refuse_none
from ._neighbors import label_tokens, nearest

SIDES = ("positive", "negative")


def sides(vectors: Float[Tensor, "m e"]) -> tuple[list[int], list[int]]:
    """The places of the vectors on the first vector's side of their main direction, and of those on the other.

    The main direction is the first right singular vector of the vectors at length 1, so that none counts more by its
    norm. A vector's side is the sign of its cosine to it.
    """
    directions = vectors.detach().to("cpu", torch.float64)
    directions = directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-12)
    along = directions @ torch.linalg.svd(directions, full_matrices=False).Vh[0]
    is_first = (along >= 0) == (along[0] >= 0)
    return is_first.nonzero().flatten().tolist(), (~is_first).nonzero().flatten().tolist()


def part(prompt: SoftPrompt, places: Sequence[int]) -> SoftPrompt:
    """The vectors of a prompt at these places, in every layer that it enters."""
    kept = list(places)
    deep = None if prompt.deep is None else prompt.deep[:, kept]
    return dataclasses.replace(prompt, vectors=prompt.vectors[kept], deep=deep)


def group_scores(
    prompt: SoftPrompt, words: Float[Tensor, "w e"], score: Callable[[SoftPrompt], float]
) -> dict[str, Any]:
    """The score of a whole prompt, and of each of its two groups alone, which is the prompt without the other.

    The positive group is the one whose vectors are nearer to the label words: by the mean over its vectors of the
    largest cosine to one. Without label words it is the larger one; the group of the first vector is first of equals.
    A group without vectors has no score.

    Args:
        prompt: of one vector or more.
        words: the vectors of the label words; of none for an answer that is no label.
        score: of a prompt.
    """
    near = nearest(prompt.vectors, words, 1, cosine=True)[1][:, 0].double() if len(words) else None

    def described(places: Sequence[int]) -> dict[str, Any]:
        if not places:
            return {"vectors": [], "label_cosine": None, "alone": None, "filled": None}
        filled = [places[number % len(places)] for number in range(len(prompt.vectors))]
        return {
            "vectors": list(places),
            "label_cosine": None if near is None else near[list(places)].mean().item(),
            "alone": score(part(prompt, places)),
            "filled": score(part(prompt, filled)),
        }

    def rank(group: dict[str, Any]) -> tuple[bool, float]:
        is_there = bool(group["vectors"])
        return is_there, len(group["vectors"]) if near is None else group["label_cosine"] if is_there else 0.0

    first, second = sides(prompt.vectors)
    groups = sorted((described(first), described(second)), key=rank, reverse=True)
    across = cosines(prompt.vectors)[first][:, second]
    return {
        "whole": score(prompt),
        "across": across.mean().item() if second else None,
        **dict(zip(SIDES, groups, strict=True)),
    }


def compute(bench: Bench) -> Values:
    """The groups of each prompt, and their scores."""
    prompts = []
    for subject in bench.subjects:
        refuse_none(subject, "groups")
        words = _label_vectors(bench.backbone(subject), subject.task.labels)
        found = group_scores(subject.prompt, words, lambda prompt, subject=subject: bench.score(subject, prompt))
        prompts.append({"prompt": subject.label, **found})
    return {"rows": bench.rows, "split": bench.split, "prompts": prompts}


def _label_vectors(backbone: AbstractBackbone, labels: tuple[str, ...]) -> Tensor:
    tokens = sorted(label_tokens(backbone, labels))
    return backbone.word_vectors[tokens].detach().cpu()


def draw(values: Values, figures: Any) -> Any:
    """The scores of the whole and of each group, beside each other for each prompt."""
    bars = {"whole": [p["whole"] for p in values["prompts"]]}
    for group in SIDES:
        bars[f"{group} alone"] = [p[group]["alone"] for p in values["prompts"]]
        bars[f"{group}, filled"] = [p[group]["filled"] for p in values["prompts"]]
    return figures.bars_figure(short(values), bars, label=f"{values['split']} score")


def rows(values: Values) -> list[dict[str, Any]]:
    """A line for each group of each prompt."""
    return [
        {"prompt": p["prompt"], "whole": p["whole"], "across": p["across"], "group": group,
         "vectors": len(p[group]["vectors"]), "to label words": p[group]["label_cosine"],
         "alone": p[group]["alone"], "filled": p[group]["filled"]}
        for p in values["prompts"]
        for group in SIDES
    ]  # fmt: skip


GROUPS = Analysis("the two opposite groups of vectors, each without the other (EPT, A.1)", compute, draw, rows)
