"""Answers of prompts to rows: label words scored, text generated, or numbers from a head; the passes are shared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..backbones import AbstractBackbone, prefix_pair
from ..data import Examples
from ..errors import BadInput, UnknownName
from ..memory import MemoryBudget
from ..prompts.batch import PromptBatch
from ..tasks import Task, finite_number
from .calibration import Calibration
from .scoring import AS_BEFORE, Scoring
from .windows import answer_scores, best

Decode = Literal["auto", "scores", "generate"]


@dataclass(frozen=True)
class Answers:
    """The answers of a prompt to some rows.

    Args:
        values: class ids (-1 where the generated text is no label word), numbers (NaN where it is none) or texts.
        texts: the answers as text.
        scores: log-probability of each label in nats, [b, c], where labels were scored.
    """

    values: list[Any]
    texts: list[str]
    scores: Tensor | None = None

    @property
    def invalid(self) -> int:
        """Answers that are no label word or no number."""
        return sum((isinstance(v, int) and v < 0) or (isinstance(v, float) and v != v) for v in self.values)

    def calibrated(self, calibration: Calibration | None, task: Task) -> "Answers":
        """The answers by calibrated scores; these, where there are no scores, or the calibration is of other labels."""
        if calibration is None or self.scores is None or calibration.labels != tuple(task.labels):
            return self
        scores = calibration.apply(self.scores)
        values = scores.argmax(-1).tolist()
        return Answers(values, [task.labels[value] for value in values], scores)


def decoding(task: Task, backbone: AbstractBackbone, decode: Decode) -> Literal["scores", "generate", "number"]:
    """How answers are found: "auto" scores label words and generates what has none; a linear head gives numbers.

    Raises:
        UnknownName: a way that does not exist.
        BadInput: labels cannot be scored because the task has none; a head that shall do anything but answer.
    """
    if decode not in get_args(Decode):
        raise UnknownName("way to decode", decode, get_args(Decode))
    if backbone.answers == "linear-head" and task.answer == "number":
        if decode != "auto":
            raise BadInput(
                f"task {task.name!r} is answered with a number by a head, not by {decode}; leave --decode out"
            )
        return "number"
    refuse_decoding(task, decode, backbone.answers)
    if task.answer == "label":
        return "scores" if decode == "auto" else decode
    return "generate"


def refuse_decoding(task: Task, decode: Decode, answers: str | None = None) -> None:
    """Refuse to score the label words of a task that has none.

    Args:
        task: the task.
        decode: how answers are wanted.
        answers: how the backbone answers; None where that is not known yet: a linear head answers numbers by itself.

    Raises:
        BadInput: there are no label words.
    """
    by_head = task.answer == "number" and answers in (None, "linear-head")
    if decode == "scores" and task.answer != "label" and not by_head:
        raise BadInput(f"task {task.name!r} is answered by a {task.answer}, there are no label words to score")


def before_answer(backbone: AbstractBackbone, task: Task) -> str:
    """The text right before the answer of every row: the end of the template, the cue, what closes a turn."""
    return task.tail + backbone.suffix(task.cue)


def label_ids(backbone: AbstractBackbone, task: Task, *, end: bool = True) -> list[list[int]]:
    """Token ids of the task's label words as they follow its text.

    Args:
        backbone: the frozen model.
        task: the task.
        end: whether the end of sequence belongs to a label, where the model emits one.

    Raises:
        SoftPromptError: as in `AbstractBackbone.encode_distinct`.
        BadInput: one label is the beginning of another, which could not win without an end.
    """
    rows = backbone.encode_distinct(task.labels, before_answer(backbone, task))
    if end:
        return rows
    rows = [row[:-1] if row[-1] in backbone.ends else row for row in rows]
    refuse_prefixes(rows, backbone)
    return rows


def refuse_prefixes(rows: Sequence[Sequence[int]], backbone: AbstractBackbone) -> None:
    """Refuse labels of which one is the beginning of another.

    Raises:
        BadInput: naming both labels.
    """
    if (pair := prefix_pair(rows)) is not None:
        short, long = (repr(backbone.tokenizer.decode(list(row)).strip()) for row in pair)
        raise BadInput(
            f"the label {short} is the beginning of {long}, and this prompt scores labels without an end of sequence: "
            "the shorter one would always win; choose other --label-words, or a prompt trained with --loss=tokens"
        )


def answer(
    backbone: AbstractBackbone,
    prompt_batch: PromptBatch,
    examples: Examples,
    task: Task,
    *,
    scoring: Scoring = AS_BEFORE,
    **options: Any,
) -> Answers:
    """The answers of the first prompt to all rows, calibrated where `scoring` says so; options of `answer_all`."""
    rows = [range(len(examples))]
    (answers,) = answer_all(backbone, prompt_batch, examples, task, rows, scoring=scoring, **options)
    return answers.calibrated(scoring.calibration, task)


@torch.no_grad()
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
    how = decoding(task, backbone, decode)
    if how == "generate" and task.answer == "text" and examples.windows is not None:
        return _over_windows(
            backbone, prompt_batch, examples, task, rows, max_new_tokens, batch_size, memory_budget or MemoryBudget()
        )
    labels = label_ids(backbone, task, end=scoring.end) if how == "scores" else []
    counts = [len(rows_of_prompt) for rows_of_prompt in rows]
    owner = torch.repeat_interleave(torch.tensor(counts))
    chosen = torch.tensor([row for rows_of_prompt in rows for row in rows_of_prompt], dtype=torch.long)
    values: list[Any] = [None] * len(chosen)
    texts, scores = [""] * len(chosen), torch.zeros(len(chosen), len(task.labels)) if how == "scores" else None
    for part in _parts(
        examples.lengths[chosen] + prompt_batch.vectors.shape[1], batch_size, memory_budget or MemoryBudget()
    ):
        batch = examples.batch(chosen[part], owner[part], backbone.pad_id).to(backbone.device)
        if how == "scores":
            assert scores is not None
            batch_scores = backbone.label_scores(prompt_batch, batch, labels, normalize=scoring.normalize).float().cpu()
            scores[part] = batch_scores
            answers: list[Any] = batch_scores.argmax(-1).tolist()
            words = [task.labels[a] for a in answers]
        elif how == "number":
            answers = backbone.logits(prompt_batch, batch)[:, 0, 0].tolist()
            # Significant digits, because the numbers may be of any size.
            words = [f"{a:.6g}" for a in answers]
        else:
            words = backbone.generate(prompt_batch, batch, max_new_tokens=max_new_tokens)
            answers = [parse(task, word) for word in words]
        for place, value, word in zip(part, answers, words, strict=True):
            values[place], texts[place] = value, word
    ends = torch.tensor(counts).cumsum(0).tolist()
    spans = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    return [Answers(values[span], texts[span], None if scores is None else scores[span]) for span in spans]


def _over_windows(
    backbone: AbstractBackbone,
    prompt_batch: PromptBatch,
    examples: Examples,
    task: Task,
    rows: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    memory_budget: MemoryBudget,
) -> list[Answers]:
    """The answers to rows that are read in windows: of each row's windows the answer that is most likely."""
    assert examples.windows is not None
    results = []
    for number, rows_of_prompt in enumerate(rows):
        windows = examples.windows.select(torch.as_tensor(rows_of_prompt, dtype=torch.long))
        wide = Examples(windows.inputs, None, [], examples.labels)
        places = [range(len(wide)) if other == number else range(0) for other in range(len(rows))]
        answers = answer_all(
            backbone, prompt_batch, wide, task, places,
            max_new_tokens=max_new_tokens, batch_size=batch_size, memory_budget=memory_budget,
        )[number]  # fmt: skip
        scores = [0.0] * len(wide)
        for part in _parts(wide.lengths + prompt_batch.vectors.shape[1], batch_size, memory_budget):
            owner = torch.full((len(part),), number)
            texts = [answers.texts[place] for place in part]
            for place, score in zip(part, answer_scores(backbone, prompt_batch, wide, part, owner, texts), strict=True):
                scores[place] = score
        chosen = best(scores, windows.owner.tolist())
        results.append(Answers([answers.values[i] for i in chosen], [answers.texts[i] for i in chosen]))
    return results


def _parts(lengths: Tensor, batch_size: int, memory_budget: MemoryBudget) -> list[list[int]]:
    # The longest rows come first: a batch then holds rows of similar length, and memory runs out at once or never.
    order = torch.argsort(lengths, descending=True, stable=True).tolist()
    return memory_budget.cut(order, lengths.tolist(), batch_size)


def parse(task: Task, text: str) -> Any:
    """A generated answer as a class id (-1 if it is no label word), a number (NaN if it is none) or the text."""
    if task.answer == "text":
        return text
    if task.answer == "label":
        return task.labels.index(text) if text in task.labels else -1
    number = finite_number(text)
    return float("nan") if number is None else number
