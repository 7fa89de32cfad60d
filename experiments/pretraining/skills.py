"""The skills of a backbone: its accuracy on fresh questions, and its answers to texts without a question."""

from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from softprompt.world import ATTRIBUTES, MIX, Question, question
from torch import Tensor

from .lessons import IGNORED, ONE_WORD, Lesson

SEED = "skills"
BATCH = 100


@torch.no_grad()
def measure(model: Any, lesson: Lesson, n: int = 500) -> dict[str, Any]:
    """Accuracy (0..1) over n fresh questions each: by attribute and by kind with its instruction, and without any.

    A question is right if all words of its answer and the end are the likeliest, each after the right ones before
    it. Without instruction the answer is the likeliest of the attribute's values; `chance` is one over their number.
    """
    was_training = model.training
    model.eval()
    try:
        kinds = [kind for kind in (ONE_WORD if lesson.kind == "encoder" else MIX) if kind != "attribute"]
        return {
            "n": n,
            "attributes": {name: _share_right(model, lesson, _asked(n, "attribute", name)) for name in ATTRIBUTES},
            "kinds": {kind: _share_right(model, lesson, _asked(n, kind)) for kind in kinds},
            "without instruction": {name: _unasked(model, lesson, name, n) for name in ATTRIBUTES},
            "chance": {name: round(1 / len(values), 4) for name, values in ATTRIBUTES.items()},
        }
    finally:
        model.train(was_training)


def _asked(n: int, kind: str, attribute: str = "") -> list[Question]:
    draw = Random(f"{SEED}/{kind}/{attribute}")
    return [question(draw, kind, attribute=attribute, split="test") for _ in range(n)]


def _share_right(model: Any, lesson: Lesson, questions: Sequence[Question]) -> float:
    right = 0
    for start in range(0, len(questions), BATCH):
        tensors = lesson.tensors(questions[start : start + BATCH])
        logits, labels = _answers(model, lesson, tensors)
        right += int(((logits.argmax(-1) == labels) | (labels == IGNORED)).all(1).sum())
    return round(right / len(questions), 4)


def _unasked(model: Any, lesson: Lesson, attribute: str, n: int) -> float:
    """Accuracy among the values of an attribute where the text stands alone."""
    values = torch.tensor([lesson.ids[value] for value in ATTRIBUTES[attribute]])
    questions = [Question("", item.text, item.answer) for item in _asked(n, "attribute", attribute)]
    right = 0
    for start in range(0, n, BATCH):
        part = questions[start : start + BATCH]
        logits, labels = _answers(model, lesson, lesson.tensors(part))
        first = (labels != IGNORED).long().argmax(1)
        chosen = logits[torch.arange(len(part)), first][:, values].argmax(-1)
        right += int((values[chosen] == labels[torch.arange(len(part)), first]).sum())
    return round(right / n, 4)


def _answers(model: Any, lesson: Lesson, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits and labels side by side: a decoder's logits tell the token after theirs."""
    logits, labels = model(**tensors).logits, tensors["labels"]
    return (logits[:, :-1], labels[:, 1:]) if lesson.kind == "decoder" else (logits, labels)
