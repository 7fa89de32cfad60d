"""Questions as tensors: the input of each kind of backbone, and the positions of its answer."""

from collections.abc import Sequence
from random import Random

import torch
from softprompt.world import MIX, Question, question
from torch import Tensor

from .recipes import END, MASK, PAD, SEPARATOR, START

IGNORED = -100
# An encoder answers at one mask.
ONE_WORD = tuple(kind for kind in MIX if kind != "several")
# A decoder reads the text and then this cue, as in `softprompt`.
CUE = "answer :"
# Whether two words are the same is what most questions turn on. Among all kinds it is not learned in thousands of
# steps; beside plain questions, on short passages, in hundreds, and the other kinds build on it then. A decoder learns
# it beside few plain questions only; BERT then learns to compare, but not all that it is asked for plainly.
FIRST_KINDS: dict[str, tuple[str, ...]] = {
    "encoder-decoder": ("attribute", "membership"),
    "encoder": ("attribute", "membership"),
    "decoder": ("membership", "membership", "membership", "attribute"),
}
# Share of short passages after that; the tasks have fewer.
SHORT = 0.5


class Lesson:
    """Makes batches for one kind of backbone.

    Args:
        kind: "encoder-decoder", "encoder" or "decoder".
        vocabulary: word -> token id.
        first_steps: batches of the first kinds of questions only.
    """

    def __init__(self, kind: str, vocabulary: dict[str, int], first_steps: int = 0):
        self.kind, self.ids, self.first_steps = kind, vocabulary, first_steps
        self._encode = {"encoder-decoder": self._asked, "encoder": self._masked, "decoder": self._continued}[kind]

    def batch(self, seed: int, step: int, size: int) -> dict[str, Tensor]:
        """The batch that belongs to a seed and a step: `input_ids`, `attention_mask` and `labels`."""
        draw = Random(f"{seed}/{step}")
        if step <= self.first_steps:
            questions = [question(draw, draw.choice(FIRST_KINDS[self.kind]), short=1.0) for _ in range(size)]
        else:
            questions = [question(draw, self._kind(draw), short=SHORT) for _ in range(size)]
        return self.tensors(questions)

    def tensors(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        """These questions, padded on the right."""
        inputs, labels = zip(*(self._encode(item) for item in questions), strict=True)
        ids = _padded(inputs, self.ids[PAD])
        return {
            "input_ids": ids,
            "attention_mask": (ids != self.ids[PAD]).long(),
            "labels": _padded(labels, IGNORED),
        }

    def _kind(self, draw: Random) -> str:
        if self.kind != "encoder":
            return ""
        return draw.choices(ONE_WORD, [MIX[kind] for kind in ONE_WORD])[0]

    def _words(self, text: str) -> list[int]:
        return [self.ids[word] for word in text.split()]

    def _asked(self, item: Question) -> tuple[list[int], list[int]]:
        return self._words(f"{item.whole} {END}"), self._words(f"{item.answer} {END}")

    def _continued(self, item: Question) -> tuple[list[int], list[int]]:
        text, answer = self._words(f"{item.whole} {CUE}"), self._words(f"{item.answer} {END}")
        return text + answer, [IGNORED] * len(text) + answer

    def _masked(self, item: Question) -> tuple[list[int], list[int]]:
        text, ending = self._words(f"{START} {item.whole}"), self._words(f"{MASK} {SEPARATOR}")
        return text + ending, [*[IGNORED] * len(text), *self._words(item.answer), IGNORED]


def _padded(rows: Sequence[list[int]], fill: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
