"""The training rows whose states are nearest to those of a row, with and without the prompt."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...backbones import AbstractBackbone, in_evaluation
from ...data import Examples
from ...errors import BadInput
from ...prompts.batch import PromptBatch
from ...prompts.prompt import SoftPrompt
from ...tasks import gold
from ._base import Analysis, Values, short
from ._bench import Bench

TRAIN_ROWS, SHOWN, BATCH = 200, 3, 32
NEIGHBORS = (1, 3, 5, 10)


def nearest_rows(
    states: Float[Tensor, "b d"], train: Float[Tensor, "r d"], k: int
) -> tuple[Int[Tensor, "b k"], Float[Tensor, "b k"]]:
    """The training rows nearest to each row, and the cosines to them, after the training rows' mean is taken away."""
    center = train.mean(0)
    units = [torch.nn.functional.normalize(values - center, dim=1) for values in (states, train)]
    largest = (units[0] @ units[1].T).topk(min(k, len(train)))
    return largest.indices, largest.values


def agreement(places: Int[Tensor, "b k"], labels: Sequence[Any], train: Sequence[Any]) -> list[float]:
    """For each number of neighbours, the mean share of them that have the label of the row."""
    same = torch.tensor(
        [[train[place] == label for place in line] for line, label in zip(places.tolist(), labels, strict=True)]
    )
    return [same[:, :k].double().mean().item() for k in NEIGHBORS if k <= same.shape[1]]


@torch.no_grad()
@in_evaluation
def states_of(backbone: AbstractBackbone, prompt: SoftPrompt, examples: Examples) -> Float[Tensor, "b d"]:
    """The mean last state over the text of each row."""
    prompt_batch, means = PromptBatch.of(prompt, device=backbone.device), []
    for start in range(0, len(examples), BATCH):
        rows = list(range(start, min(start + BATCH, len(examples))))
        batch = examples.batch(rows, 0, backbone.pad_id).to(backbone.device)
        states, mask = backbone.text_states(prompt_batch, batch), batch.mask[:, :, None]
        means.append((states * mask).sum(1) / mask.sum(1))
    return torch.cat(means).cpu().float()


def compute(bench: Bench) -> Values:
    """The nearest training rows of each row, and how often they have its label.

    Raises:
        BadInput: the rows are training rows, each of which would find itself.
    """
    if bench.split == "train":
        raise BadInput("nearest-examples compares rows with training rows, among which --split=train is; give another")
    prompts = []
    for subject in bench.subjects:
        backbone, task = bench.backbone(subject), subject.task
        rows, train = bench.drawn(subject), bench.drawn(subject, "train", TRAIN_ROWS)
        examples, others = bench.examples(subject, rows), bench.examples(subject, train)
        labels = [[gold(task, row) for row in chosen] for chosen in (rows, train)]
        texts = [[task.render(row).text for row in chosen] for chosen in (rows, train)]
        without = dataclasses.replace(subject.prompt, vectors=subject.prompt.vectors[:0], deep=None)
        values: dict[str, Any] = {"prompt": subject.label}
        for name, prompt in (("with", subject.prompt), ("without", without)):
            states, known = (states_of(backbone, prompt, chosen) for chosen in (examples, others))
            places, cosines = nearest_rows(states, known, max(NEIGHBORS))
            values[name] = agreement(places, *labels)
            if name == "with":
                values["rows"] = _shown(task, texts, labels, places, cosines)
        prompts.append(values)
    return {"neighbors": list(NEIGHBORS), "train_rows": TRAIN_ROWS, "prompts": prompts}


def _shown(task: Any, texts: Any, labels: Any, places: Tensor, cosines: Tensor) -> list[dict[str, Any]]:
    def named(label: Any) -> Any:
        return task.labels[label] if task.answer == "label" else label

    return [
        {
            "text": text,
            "label": named(label),
            "nearest": [
                {"text": texts[1][place], "label": named(labels[1][place]), "cosine": cosine}
                for place, cosine in list(zip(line, values, strict=True))[:SHOWN]
            ],
        }
        for text, label, line, values in zip(texts[0], labels[0], places.tolist(), cosines.tolist(), strict=True)
    ]


def draw(values: Values, figures: Any) -> Any:
    """The share of neighbours with the row's label, with and without the prompt."""
    curves = {
        f"{label}, {name}": (values["neighbors"][: len(p[name])], p[name], None, None)
        for label, p in zip(short(values), values["prompts"], strict=True)
        for name in ("with", "without")
    }
    return figures.curve_figure(curves, x="nearest training rows", y="share with the row's label", log_x=False)


def rows(values: Values) -> list[dict[str, Any]]:
    """The shares, with and without the prompt."""
    return [
        {"prompt": p["prompt"], "states": f"{name} the prompt"}
        | {f"{k} nearest": share for k, share in zip(values["neighbors"], p[name], strict=False)}
        for p in values["prompts"]
        for name in ("with", "without")
    ]


NEAREST = Analysis(
    "the training rows that a row's state is nearest to, with and without the prompt", compute, draw, rows
)
