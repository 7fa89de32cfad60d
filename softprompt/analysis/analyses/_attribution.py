"""Which words carry the decision, with and without the prompt: integrated gradients (Sundararajan et al., 2017)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...backbones import AbstractBackbone, in_evaluation
from ...data import SPECIAL
from ...errors import BadInput
from ...inference.decoding import label_ids
from ...prompts.batch import TEMPLATE, PromptBatch, TextBatch
from ...prompts.prompt import SoftPrompt
from ...tasks import Task
from ._base import Analysis, Values
from ._bench import Bench

# Rows that are explained: each takes as many passes forward and back as the path has steps.
MOST_ROWS, STEPS = 8, 32


def integrated_gradients(
    score: Callable[[Tensor], Tensor], at: Float[Tensor, "t e"], baseline: Float[Tensor, "t e"]
) -> tuple[Float[Tensor, " t"], float]:
    """The share of score(at) - score(baseline) that each position carries, and by how much their sum misses it.

    Args:
        score: of k inputs [k, t, e], one number each.
        at: the embedded text.
        baseline: the same without the words.

    Raises:
        BadInput: Captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError as error:
        raise BadInput("attribution needs Captum; pip install 'softprompt[explain]'") from error
    attribute: Any = IntegratedGradients(score).attribute
    gradients, missed = attribute(
        at[None], baselines=baseline[None], n_steps=STEPS, internal_batch_size=16, return_convergence_delta=True
    )
    return gradients[0].sum(-1).detach(), float(missed.abs().max())


def label_score(
    backbone: AbstractBackbone, prompt: SoftPrompt, row: TextBatch, task: Task, label: int
) -> Callable[[Tensor], Tensor]:
    """The log-probability in nats of a label among all labels, as a function of the embedded text of one row."""
    prompt_batch, labels = PromptBatch.of(prompt, device=backbone.device), label_ids(backbone, task)
    at = backbone.embed(row.ids)[0].detach()

    def score(texts: Tensor) -> Tensor:
        copies = row.select(torch.zeros(len(texts), dtype=torch.long, device=row.ids.device))
        copies = dataclasses.replace(copies, text_delta=texts - at)
        return backbone.label_scores(prompt_batch, copies, labels).log_softmax(-1)[:, label]

    return score


def compute(bench: Bench) -> Values:
    """Attributions of the first rows, to the right label, for each prompt and without it."""
    prompts = []
    for subject in bench.subjects:
        if subject.task.answer != "label":
            raise BadInput(
                f"attribution needs a task with labels, and {subject.label!r} answers a {subject.task.answer}"
            )
        backbone = bench.backbone(subject)
        examples = bench.examples(subject, bench.drawn(subject, rows=min(bench.rows, MOST_ROWS)))
        without = dataclasses.replace(subject.prompt, vectors=subject.prompt.vectors[:0], deep=None)
        lines = []
        for number in range(len(examples)):
            row = examples.batch([number], 0, backbone.pad_id).to(backbone.device)
            gold: Any = examples.gold[number]
            line = _of_row(backbone, row, subject.task, int(gold), subject.prompt, without)
            lines.append(line)
        prompts.append({"prompt": subject.label, "rows": lines})
    return {"steps": STEPS, "prompts": prompts}


@in_evaluation
def _of_row(
    backbone: AbstractBackbone, row: TextBatch, task: Task, gold: int, prompt: SoftPrompt, without: SoftPrompt
) -> dict[str, Any]:
    assert row.parts is not None
    at = backbone.embed(row.ids)[0].detach()
    words = (row.parts[0] != SPECIAL) & (row.parts[0] != TEMPLATE) & row.mask[0]
    # What is no word of the row stays where it is, so that only words carry the difference.
    baseline = torch.where(words[:, None], torch.zeros_like(at), at)
    attributions: dict[str, Any] = {}
    for name, each in (("with", prompt), ("without", without)):
        score = label_score(backbone, each, row, task, gold)
        values, missed = integrated_gradients(score, at, baseline)
        with torch.no_grad():
            chance = float(score(at[None]).exp())
        attributions[name] = {"values": values[words].tolist(), "probability": chance, "missed": missed}
    tokens = [backbone.tokenizer.decode([token]) for token in row.ids[0][words].tolist()]
    return {"label": task.labels[gold], "tokens": tokens, **attributions}


def draw(values: Values, figures: Any) -> Any:
    """The tokens of the first rows of the first prompt, shaded by what they carry."""
    first = values["prompts"][0]
    lines = [
        (f"{line['label']}, {name} prompt: p {line[name]['probability']:.2f}", line["tokens"], line[name]["values"])
        for line in first["rows"][:2]
        for name in ("with", "without")
    ]
    return figures.words_figure(lines, title=first["prompt"])


def rows(values: Values) -> list[dict[str, Any]]:
    """The words that carry most, for and against the right label."""
    return [
        {"prompt": p["prompt"], "right": line["label"], "with the prompt": _most(line, "with"),
         "without": _most(line, "without")}
        for p in values["prompts"]
        for line in p["rows"]
    ]  # fmt: skip


def _most(line: dict[str, Any], name: str) -> str:
    pairs = sorted(zip(line["tokens"], line[name]["values"], strict=True), key=lambda pair: -abs(pair[1]))[:3]
    words = ", ".join(f"{token.strip()} {value:+.2f}" for token, value in pairs)
    return f"p {line[name]['probability']:.2f}: {words}"


ATTRIBUTION = Analysis("which words carry the decision, with and without the prompt", compute, draw, rows)
