"""Known ways to put a task, compared with each other on training rows: templates, and label words in another case."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..backbones import AbstractBackbone
from ..data import Rows
from ..errors import SoftPromptError
from ..tasks import PATTERNS, TASKS, Task
from .asked import worded_for
from .frozen import classes_of, handwritten, score_of
from .without_prompt import label_scores_of


@dataclass(frozen=True, kw_only=True)
class ScoredWording:
    """A way to put a task, and what the frozen model scores with it.

    Args:
        name: of the style, and "no instruction" where it is left out.
        task: put so, with the label words that are scored.
        score: on training rows, which are none of those reported.
    """

    name: str
    task: Task
    score: float

    @property
    def text(self) -> str:
        """What the model is given, with columns in braces."""
        return self.task.opening + self.task.template + (self.task.cue or "")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"wording": self.name, "text": self.text, "label_words": list(self.task.labels), "score": self.score}


def casings(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """The label words as they are, in small letters, and with a capital, each once."""
    ways = (tuple(labels), tuple(map(str.lower, labels)), tuple(word[:1].upper() + word[1:] for word in labels))
    return [way for way in dict.fromkeys(ways) if len(set(way)) == len(way)]


def ways_to_put(task: Task, backbone: AbstractBackbone, columns: Sequence[str]) -> dict[str, Task]:
    """Name -> the task put so, each once: as it is, by hand, in plain words, and as its cloze patterns.

    Args:
        task: as prompts are trained on it.
        backbone: a decoder reads the patterns that end in the answer, an encoder with label words all.
        columns: that the rows have.
    """
    ways = {}
    for name, put_so in _all_ways(task, backbone, columns):
        readable = set(put_so.columns) <= set(columns) and (backbone.mask is not None or not put_so.is_cloze)
        if readable and put_so not in ways.values():
            ways[name] = put_so
    return ways


def _all_ways(task: Task, backbone: AbstractBackbone, columns: Sequence[str]) -> Iterator[tuple[str, Task]]:
    yield task.style, task
    best = handwritten(task, backbone.kind, columns)
    if best is not None:
        yield best.style, best
        yield f"{best.style}, no instruction", dataclasses.replace(best, instruction="")
    declared = TASKS.get(task.name)
    if declared is None:
        return
    here = dataclasses.replace(declared, source=task.source, max_length=task.max_length)
    yield "words", here
    for number in range(len(PATTERNS.get(task.name, ()))):
        yield f"pet-{number}", worded_for(here, backbone.kind, f"pet-{number}")


def compared(backbone: AbstractBackbone, task: Task, rows: Rows) -> list[ScoredWording]:
    """Each known way to put the task, with each casing of its label words, the best first.

    Args:
        backbone: frozen.
        task: as prompts are trained on it.
        rows: training rows, which hold the answers.
    """
    right = classes_of(task, rows)
    ways = []
    for name, put_so in ways_to_put(task, backbone, list(rows.columns)).items():
        for cased, predictions in _predicted(backbone, put_so, rows):
            ways.append(ScoredWording(name=name, task=cased, score=score_of(task, predictions, right)))
    return sorted(ways, key=lambda way: -way.score)


def _predicted(backbone: AbstractBackbone, task: Task, rows: Rows) -> Iterator[tuple[Task, list[int]]]:
    """The task with each casing of its words, and what is answered: one pass where the words are all different."""
    ways = casings(task.labels)
    words = list(dict.fromkeys(word for way in ways for word in way))
    try:
        every = dataclasses.replace(task, labels=tuple(words), label_values=(), class_names=())
        scores = label_scores_of(backbone, every, rows)
    except SoftPromptError:
        # A tokenizer without capitals reads both alike, a mask holds one token; then the words as they are, or none.
        try:
            scores, words, ways = label_scores_of(backbone, task, rows), list(task.labels), ways[:1]
        except SoftPromptError:
            return
    for way in ways:
        columns = torch.tensor([words.index(word) for word in way])
        yield dataclasses.replace(task, labels=way), scores[:, columns].argmax(-1).tolist()
