"""The words nearest to each vector of a prompt, label words marked (EPT, appendix A.1)."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...backbones import AbstractBackbone
from ..geometry import distinct
from ._base import NO_ROWS, Analysis, Values
from ._bench import Bench, refuse_none

NEAREST = 5


def nearest(
    vectors: Float[Tensor, "m e"], table: Float[Tensor, "v e"], k: int, *, cosine: bool
) -> tuple[Int[Tensor, "m k"], Float[Tensor, "m k"]]:
    """The rows of the table with the largest cosine, or the largest dot product, to each vector, and these numbers."""
    vectors, table = vectors.float(), table.float()
    if cosine:
        vectors, table = (values / values.norm(dim=1, keepdim=True).clamp(min=1e-12) for values in (vectors, table))
    largest = (vectors @ table.T).topk(k)
    return largest.indices, largest.values


def first_norm(backbone: AbstractBackbone) -> nn.Module | None:
    """The normalisation that a vector meets first; None where the model has none."""
    return next((module for module in backbone.stack.modules() if "norm" in type(module).__name__.lower()), None)


@torch.no_grad()
def compute(bench: Bench) -> Values:
    """The nearest words by cosine, and by dot product after the model's first normalisation."""
    prompts = []
    for subject in bench.subjects:
        refuse_none(subject, "neighbors")
        backbone = bench.backbone(subject)
        table, vectors = backbone.word_vectors, distinct(subject.prompt.vectors).to(backbone.device)
        norm = first_norm(backbone)
        inside = [values if norm is None else norm(values.to(table.dtype)) for values in (vectors, table)]
        labels = label_tokens(backbone, subject.task.labels)
        ways = {"cosine": nearest(vectors, table, NEAREST, cosine=True)}
        ways["dot product"] = nearest(inside[0], inside[1], NEAREST, cosine=False)
        prompts.append({"prompt": subject.label, "vectors": _words(backbone, ways, labels, len(vectors))})
    return {"prompts": prompts}


def label_tokens(backbone: AbstractBackbone, labels: tuple[str, ...]) -> set[int]:
    """The tokens of label words, as they begin a text and after a blank."""
    rows = backbone.tokenizer([f"{blank}{label}" for label in labels for blank in ("", " ")], add_special_tokens=False)
    return {token for ids in rows.input_ids for token in ids} if labels else set()


def _words(
    backbone: AbstractBackbone, ways: dict[str, tuple[Tensor, Tensor]], labels: set[int], count: int
) -> list[dict[str, Any]]:
    return [
        {
            way: [
                {"word": backbone.tokenizer.decode([token]).strip(), "value": value, "is_label": token in labels}
                for token, value in zip(ids[place].tolist(), numbers[place].tolist(), strict=True)
            ]
            for way, (ids, numbers) in ways.items()
        }
        for place in range(count)
    ]


def draw(values: Values, figures: Any) -> Any:
    """The cosines of the nearest words of each vector of the first prompt."""
    first = values["prompts"][0]
    words = [[(n["word"], n["value"], n["is_label"]) for n in vector["cosine"]] for vector in first["vectors"]]
    return figures.neighbors_figure(words, title=first["prompt"])


def rows(values: Values) -> list[dict[str, Any]]:
    """The nearest words of each vector; a label word has a star."""
    return [
        {"prompt": p["prompt"], "vector": place}
        | {way: ", ".join(_told(n) for n in vector[way][:3]) for way in ("cosine", "dot product")}
        for p in values["prompts"]
        for place, vector in enumerate(p["vectors"])
    ]


def _told(neighbor: dict[str, Any]) -> str:
    return f"{neighbor['word']}{'*' if neighbor['is_label'] else ''} {neighbor['value']:.2f}"


NEIGHBORS = Analysis(
    "the words nearest to each vector, label words marked (EPT, A.1)", compute, draw, rows, ignores=NO_ROWS
)
