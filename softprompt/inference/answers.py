"""Answers of prompts to rows: label words scored, text generated, or numbers from a head; the passes are shared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backbones import AbstractBackbone, Reading, in_evaluation
from ..data import Examples
from ..errors import BadInput
from ..memory import MemoryBudget
from ..prompts.batch import PromptBatch, TextBatch
from ..tasks import Task, finite_number
from .calibration import Calibration
from .decoding import Decode, Way, decoding, label_ids
from .scoring import AS_BEFORE, Scoring
from .windows import answer_scores, best


def _shortest(number: float) -> str:
    """The fewest digits that are read back as the same float32."""
    # By way of float, which writes powers of ten for fewer numbers than numpy does.
    return str(float(str(np.float32(number)))).removesuffix(".0")


def no_answer(prompt: str = "this prompt") -> BadInput:
    """What is said where the model computes NaN; `prompt` is what is said of the prompt."""
    return BadInput(
        f"the model computes NaN with {prompt}, from which no answer follows: numbers are too large for it; "
        "train the prompt again, or load a model in half precision with --dtype=float32"
    )


@dataclass(frozen=True)
class Answers:
    """The answers of a prompt to some rows.

    Args:
        values: class ids (-1 where the generated text is no label word), numbers (NaN where it is none) or texts.
        texts: the answers as text.
        scores: log-probability of each label in nats, [b, c], where labels were scored.
        lost: for each row whether the model computed NaN where it wrote or where a head gave its number; empty where
            labels were scored.
    """

    values: list[Any]
    texts: list[str]
    scores: Tensor | None = None
    lost: Sequence[bool] = ()

    @classmethod
    def of_scores(cls, scores: Tensor, task: Task) -> "Answers":
        """The labels of the highest scores."""
        values = scores.argmax(-1).tolist()
        return cls(values, [task.labels[value] for value in values], scores)

    @classmethod
    def of_numbers(cls, numbers: list[float]) -> "Answers":
        """The numbers of a head; their texts are the shortest that are read back as the same float32."""
        return cls(numbers, [_shortest(number) for number in numbers], lost=[number != number for number in numbers])

    @classmethod
    def of_texts(cls, texts: Sequence[str | None], task: Task) -> "Answers":
        """Generated answers as they are read; None is no answer, and read as an empty one."""
        written = [text or "" for text in texts]
        return cls([parse(task, text) for text in written], written, lost=[text is None for text in texts])

    def part(self, span: slice) -> "Answers":
        """The answers to some of the rows."""
        scores = None if self.scores is None else self.scores[span]
        return Answers(self.values[span], self.texts[span], scores, self.lost[span])

    @property
    def invalid(self) -> int:
        """Answers that are no label word or no number."""
        return sum((isinstance(v, int) and v < 0) or (isinstance(v, float) and v != v) for v in self.values)

    @property
    def has_nan(self) -> bool:
        """Whether the model computed NaN for a row, from which no answer follows."""
        return any(self.lost) or (self.scores is not None and bool(self.scores.isnan().any()))

    def usable(self, prompt: str = "this prompt") -> "Answers":
        """These answers, unless one is none: the highest of NaN would be the first label, or the first token.

        Args:
            prompt: what is said of the prompt.

        Raises:
            BadInput: the model computes NaN.
        """
        if self.has_nan:
            raise no_answer(prompt)
        return self

    def calibrated(self, calibration: Calibration | None, task: Task) -> "Answers":
        """The answers by calibrated scores; these, where there are no scores, or the calibration is of other labels."""
        if calibration is None or self.scores is None or calibration.labels != tuple(task.labels):
            return self
        return Answers.of_scores(calibration.apply(self.scores), task)


def answer(
    backbone: AbstractBackbone,
    prompt_batch: PromptBatch,
    examples: Examples,
    task: Task,
    *,
    scoring: Scoring = AS_BEFORE,
    decode: Decode | None = None,
    max_new_tokens: int | None = None,
    **options: Any,
) -> Answers:
    """The answers of the first prompt to all rows, as `scoring` says, calibration included; options of `answer_all`.

    Args:
        backbone: frozen.
        prompt_batch: the prompt.
        examples: the rows.
        task: how they are answered.
        scoring: how the prompt answers.
        decode: another way; None is that of `scoring`.
        max_new_tokens: another longest answer; None is that of `scoring`.
        options: of `answer_all`.

    Raises:
        BadInput: the model computes NaN.
    """
    rows = [range(len(examples))]
    options |= {"decode": decode or scoring.decode, "max_new_tokens": max_new_tokens or scoring.max_new_tokens}
    (answers,) = answer_all(backbone, prompt_batch, examples, task, rows, scoring=scoring, **options)
    return answers.usable().calibrated(scoring.calibration, task)


@dataclass(frozen=True)
class _Reading:
    """What all passes over some rows have in common; `labels` are token ids, empty where no labels are scored."""

    backbone: AbstractBackbone
    prompt_batch: PromptBatch
    task: Task
    way: Way
    labels: list[list[int]]
    normalize: Any
    max_new_tokens: int
    batch_size: int
    memory_budget: MemoryBudget

    def answers(self, examples: Examples, rows: Tensor, owner: Tensor) -> Answers:
        """The answers to these rows, each by the prompt that owns it."""
        values: list[Any] = [None] * len(rows)
        texts, scores = [""] * len(rows), torch.zeros(len(rows), len(self.labels), dtype=torch.float32)
        lost = [False] * len(rows)
        for places in self.passes(examples.lengths[rows]):
            batch = examples.batch(rows[places], owner[places], self.backbone.pad_id).to(self.backbone.device)
            answers = self.one_pass(batch)
            for place, value, text in zip(places, answers.values, answers.texts, strict=True):
                values[place], texts[place] = value, text
            for place, is_lost in zip(places, answers.lost, strict=False):
                lost[place] = is_lost
            if answers.scores is not None:
                scores[places] = answers.scores
        return Answers(values, texts, scores if self.labels else None, lost)

    def one_pass(self, batch: TextBatch) -> Answers:
        """The answers to the rows of one pass."""
        if self.way == "scores":
            scores = self.backbone.label_scores(self.prompt_batch, batch, self.labels, normalize=self.normalize)
            return Answers.of_scores(scores.float().cpu(), self.task)
        if self.way == "number":
            return Answers.of_numbers(self.backbone.logits(self.prompt_batch, batch)[:, 0, 0].tolist())
        texts = self.backbone.generate(self.prompt_batch, batch, max_new_tokens=self.max_new_tokens)
        return Answers.of_texts(texts, self.task)

    def over_windows(self, examples: Examples, rows: Tensor, owner: Tensor) -> Answers:
        """The answers to rows that are read in windows: of each row's windows the answer that is most likely."""
        assert examples.windows is not None
        windows = examples.windows.select(rows)
        wide, owner = Examples(windows.inputs, None, [], examples.labels), owner[windows.owner]
        answers = self.answers(wide, torch.arange(len(wide)), owner)
        scores = torch.zeros(len(wide), dtype=torch.float32)
        for places in self.passes(wide.lengths):
            texts = [answers.texts[place] for place in places]
            likelihoods = answer_scores(self.backbone, self.prompt_batch, wide, places, owner[places], texts, self.task)
            scores[places] = torch.tensor(likelihoods, dtype=torch.float32)
        chosen = best(scores.tolist(), windows.owner.tolist())
        values, texts = ([of[place] for place in chosen] for of in (answers.values, answers.texts))
        lost = {row for row, is_lost in zip(windows.owner.tolist(), answers.lost, strict=True) if is_lost}
        return Answers(values, texts, lost=[row in lost for row in range(len(rows))])

    def passes(self, lengths: Tensor) -> list[list[int]]:
        """Rows of these lengths in passes. The longest come first: memory then runs out at once or never."""
        behind = self.backbone.read_positions(Reading.of(self.labels, self.normalize)) if self.labels else 0
        order = torch.argsort(lengths, descending=True, stable=True).tolist()
        whole = lengths + self.prompt_batch.vectors.shape[1] + behind
        return self.memory_budget.cut(order, whole.tolist(), self.batch_size)


@torch.no_grad()
@in_evaluation
def answer_all(
    backbone: AbstractBackbone,
    prompt_batch: PromptBatch,
    examples: Examples,
    task: Task,
    rows: Sequence[Sequence[int]],
    *,
    decode: Decode = "auto",
    scoring: Scoring = AS_BEFORE,
    max_new_tokens: int = 20,
    batch_size: int = 32,
    memory_budget: MemoryBudget | None = None,
) -> list[Answers]:
    """The answers of each prompt of a batch of prompts to rows of its own, in their order; the passes are shared.

    Args:
        backbone: frozen.
        prompt_batch: the prompts.
        examples: the rows.
        task: how they are answered.
        rows: for each prompt of the batch of prompts the rows that it answers.
        decode: "scores", "generate" or "auto".
        scoring: how label words are scored, of all prompts alike; scores stay as they are, whatever its calibration.
        max_new_tokens: longest generated answer.
        batch_size: rows in one pass, of all prompts together.
        memory_budget: what bounds the passes further; None is nothing.
    """
    way = decoding(task, backbone, decode)
    labels = label_ids(backbone, task, end=scoring.end) if way == "scores" else []
    budget = memory_budget or MemoryBudget()
    reading = _Reading(
        backbone, prompt_batch, task, way, labels, scoring.normalize, max_new_tokens, batch_size, budget
    )  # fmt: skip
    counts = [len(rows_of_prompt) for rows_of_prompt in rows]
    owner = torch.repeat_interleave(torch.tensor(counts))
    chosen = torch.tensor([row for rows_of_prompt in rows for row in rows_of_prompt], dtype=torch.long)
    in_windows = way == "generate" and task.answer == "text" and examples.windows is not None
    answers = (reading.over_windows if in_windows else reading.answers)(examples, chosen, owner)
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [answers.part(slice(end - count, end)) for end, count in zip(ends, counts, strict=True)]


def parse(task: Task, text: str) -> Any:
    """A generated answer as a class id (-1 if it is no label word), a number (NaN if it is none) or the text."""
    if task.answer == "text":
        return text
    if task.answer == "label":
        # A prompt of an earlier version may hold words with blanks around them, and a generated answer has none.
        words = [word.strip() for word in task.labels]
        return words.index(text) if text in words else -1
    number = finite_number(text)
    return float("nan") if number is None else number
