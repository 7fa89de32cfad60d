"""What the README of every exported prompt says: base model, task, method, seeds, scores with their spread, licence."""

import re
import sys
from collections.abc import Mapping
from typing import Any

from ..documents import in_markdown
from ..errors import pick
from ..inference.scoring import Scoring
from ..prompts.prompt import SoftPrompt

LARGEST = sys.float_info.max
# A name on the hub.
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Arguments of `generate` that leave out what a model's own generation defaults bring (`backbones/_greedy.py`).
GREEDY = "do_sample=False, repetition_penalty=1.0, no_repeat_ngram_size=0"
# How the tokens of a label are scored where a model writes, by `Scoring.normalize`.
RULES = {
    "sum": "the sum of the log-probabilities of its tokens, {end}",
    "mean": "the mean of the log-probabilities of its tokens, {end}",
    "first": "the log-probability of its first token",
}
RULE = "The label of the highest score is the answer: {rule}. Tokens are those that follow the text as an answer."
# Of a prompt trained with a loss over labels.
CHOICE_CAVEAT = (
    "This prompt was trained to choose between the labels by their scores. What `generate` writes with it may be "
    "anything."
)
CALIBRATED = """\
The scores above are those of calibrated labels, where `scores` are the log-probabilities of the labels in their order:

```python
import torch

probabilities = (scores / {temperature!r} + torch.tensor({bias})).softmax(-1)
```"""


def front_matter(prompt: SoftPrompt, licence: str, library: str | None = None) -> list[str]:
    """The lines that the hub reads.

    Args:
        prompt: what is exported.
        licence: an identifier of the hub, as "apache-2.0"; "other" where it is not known.
        library: that loads the files, where it is one of the hub's.
    """
    name = prompt.provenance.backbone.name
    return [
        "---",
        *([f"library_name: {library}"] if library else []),
        # The last name of a folder, or a model that comes with softprompt, would name a stranger's repository.
        *([f"base_model: {name}"] if REPOSITORY.fullmatch(name) else []),
        f"license: {licence}",
        "tags: [soft-prompt, prompt-tuning]",
        "---",
        "",
    ]


def facts(prompt: SoftPrompt, licence: str, spread: object) -> list[str]:
    """The lines that people read.

    Args:
        prompt: what is exported.
        licence: as in `front_matter`.
        spread: scores over seeds in words, or None.
    """
    provenance = prompt.provenance
    task = (provenance.task or {}).get("name", "a task that is not recorded")
    return [
        f"- Task: {in_markdown(task)}",
        f"- Method: {in_markdown(provenance.method)}",
        f"- Seeds: {_pairs(provenance.seeds)}",
        *[f"- {in_markdown(f'{split} {name}')}: {value:.4g}" for split, name, value in _numbers(provenance.metrics)],
        f"- Test score over seeds: {spread or 'not known'}",
        f"- Licence: {licence}. That of the base model applies to its weights.",
        "",
    ]


def how_long_texts_are(prompt: SoftPrompt) -> list[str]:
    """The line on the length to which the prompt's task cuts what is read; none where it is not known."""
    longest = (prompt.provenance.task or {}).get("max_length")
    if not longest:
        return []
    return [
        "",
        f"Inputs are read up to {longest} tokens, template and special tokens included and the prompt not: cut the end "
        "of a longer text.",
    ]


def how_it_chooses(prompt: SoftPrompt) -> list[str]:
    """The lines on a prompt of a task with labels: these, how their scores compare, and what calibrates them."""
    labels, scoring = (prompt.provenance.task or {}).get("labels"), Scoring.of(prompt)
    if not labels:
        return []
    lines = ["", f"Labels by class: {in_markdown(', '.join(map(repr, labels)))}."]
    # An encoder scores one token or class, by the recipe shown.
    if prompt.provenance.backbone.kind != "encoder" and scoring.decode == "auto":
        end = "with the end of sequence" if scoring.end else "without an end of sequence"
        lines += ["", RULE.format(rule=pick("normalization", scoring.normalize, RULES).format(end=end))]
    if not scoring.end:
        lines += ["", CHOICE_CAVEAT]
    if (fitted := scoring.calibration) is not None and fitted.labels == tuple(labels):
        lines += ["", CALIBRATED.format(temperature=fitted.temperature, bias=list(fitted.bias))]
    return lines


def _numbers(metrics: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    return [
        (split, name, float(value))
        for split, by_name in metrics.items()
        if isinstance(by_name, Mapping)
        for name, value in by_name.items()
        # A stranger's prompt may hold whole numbers that are larger than any float.
        if isinstance(value, int | float) and abs(value) < LARGEST
    ]


def _pairs(values: Mapping[str, int]) -> str:
    return ", ".join(f"{in_markdown(name)} {value}" for name, value in values.items()) or "not recorded"
