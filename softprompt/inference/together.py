"""Several prompts that answer the same rows, in passes of the frozen model that they share."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones import AbstractBackbone, Reading, evaluating
from ..baselines import answering
from ..data import Examples, warn_of_unknown
from ..prompts.batch import PromptBatch
from ..prompts.prompt import SoftPrompt
from ..prompts.tuned import Stored
from ..tasks import Task
from .answers import Answers, answer
from .asked import task_of
from .decoding import Decode, Way, decoding, label_ids
from .mixed import scored_each
from .predict import as_row, texts_or_rows
from .rows import examples_for, tell_truncated, text_limit
from .scoring import Scoring, scoring_of

# A row, by its place among those that are answered together, and the place of its prompt in the group.
Cell = tuple[int, int]


@final
@dataclass(frozen=True, eq=False)
class Responder:
    """A stored prompt that answers rows, and what all of its rows have in common.

    Args:
        name: of the column with its answers.
        stored: the prompt, or trained weights.
        backbone: its frozen model.
        task: how a row is put.
        scoring: how label words are scored.
        way: how an answer is found.
        reading: the tokens of the label words; None where none are scored.
    """

    name: str
    stored: Stored
    backbone: AbstractBackbone
    task: Task
    scoring: Scoring
    way: Way
    reading: Reading | None

    @classmethod
    def of(
        cls,
        name: str,
        stored: Stored,
        backbone: AbstractBackbone,
        decode: Decode | None,
        calibrate: bool,
        max_new_tokens: int | None = None,
    ) -> "Responder":
        """The responder of a stored prompt; arguments as in `predict`.

        Raises:
            BadInput: its task cannot be answered in this way.
        """
        task, scoring = task_of(stored), scoring_of(stored, calibrate=calibrate)
        scoring = dataclasses.replace(scoring, max_new_tokens=max_new_tokens or scoring.max_new_tokens)
        way, reading = decoding(task, backbone, decode or scoring.decode), None
        if way == "scores":
            labels = label_ids(backbone, task, end=scoring.end)
            # Of a head only the number of classes counts, so that prompts of other labels share its passes.
            is_head = backbone.answers == "linear-head"
            reading = Reading.of([[0]] * len(labels)) if is_head else Reading.of(labels, scoring.normalize)
        return cls(name, stored, backbone, task, scoring, way, reading)

    @property
    def columns(self) -> list[str]:
        """The names of its columns: the answer, then the probability of each label where labels are scored."""
        labels = self.task.labels if self.way == "scores" else ()
        return [self.name, *(f"{self.name}.{label}" for label in labels)]

    @property
    def partners(self) -> tuple[Any, ...]:
        """What is the same for prompts that can share a pass; trained weights share none."""
        if not isinstance(self.stored, SoftPrompt):
            return (self.name,)
        head = self.stored.head
        longest = self.scoring.max_new_tokens if self.way == "generate" else None
        return id(self.backbone), self.way, longest, None if head is None else len(head.bias)

    @functools.cached_property
    def writing(self) -> str:
        """What is the same for prompts whose rows have the same tokens."""
        limit = text_limit(self.backbone, self.stored.length, self.task)
        return json.dumps([self.task.to_json(), limit], default=str)

    def examples(self, inputs: Sequence[Any], places: Sequence[str] | None = None) -> Examples:
        """The tokens of the rows; `places` are what they are called in messages.

        Raises:
            BadInput: an input that is no text and no row, or lacks a column.
        """
        rows = [as_row(self.task, given) for given in texts_or_rows(inputs)]
        # Each chunk of a large file would leave a file in the cache that nothing reads again.
        examples = examples_for(
            self.backbone, self.task, rows, self.stored.length, targets=False, places=places, cache=False
        )
        tell_truncated(examples, "inputs")
        warn_of_unknown(examples, self.backbone.tokenizer, self.backbone.name)
        return examples

    def scored(self, scores: Float[Tensor, " c"]) -> list[Any]:
        """What stands in the columns for a row with these scores.

        Raises:
            BadInput: the model computed NaN.
        """
        answers = Answers.of_scores(scores[None], self.task).usable(f"prompt {self.name!r}")
        return self.values(answers.calibrated(self.scoring.calibration, self.task), 0)

    def written(self, text: str | None) -> list[Any]:
        """What stands in the columns for a row with this answer.

        Raises:
            BadInput: the model computed NaN.
        """
        return self.values(Answers.of_texts([text], self.task).usable(f"prompt {self.name!r}"), 0)

    def given(self, number: float) -> list[Any]:
        """What stands in the column for a row of which a head gave this number.

        Raises:
            BadInput: the model computed NaN.
        """
        return self.values(Answers.of_numbers([number]).usable(f"prompt {self.name!r}"), 0)

    def values(self, answers: Answers, place: int) -> list[Any]:
        """What stands in the columns for one of these answers."""
        scores = [] if answers.scores is None else answers.scores[place].softmax(-1).tolist()
        return [answers.texts[place], *scores]


@final
@dataclass(frozen=True, eq=False)
class Group:
    """Prompts whose rows share passes: those of one model that are answered in the same way.

    Args:
        responders: the prompts.
    """

    responders: Sequence[Responder]

    @classmethod
    def all_of(cls, responders: Sequence[Responder]) -> "list[Group]":
        """The prompts in groups, each in the order that was given."""
        groups: dict[tuple[Any, ...], list[Responder]] = {}
        for responder in responders:
            groups.setdefault(responder.partners, []).append(responder)
        return [cls(members) for members in groups.values()]

    @property
    def backbone(self) -> AbstractBackbone:
        """The model that they share."""
        return self.responders[0].backbone

    @contextlib.contextmanager
    def ready(self) -> Iterator[PromptBatch]:
        """Inside the `with` block, the model answers with what is stored; yields what stands before the rows."""
        with contextlib.ExitStack() as stack:
            entered = (answering(responder.stored, responder.backbone) for responder in self.responders)
            before = [stack.enter_context(context) for context in entered]
            yield PromptBatch.of(*before, device=self.backbone.device)

    def passes(self, inputs: Sequence[Any], batch_size: int, places: Sequence[str] | None = None) -> "list[Pass]":
        """The passes that answer these rows with every prompt. Equal rows give equal passes, whatever came before.

        Args:
            inputs: texts, or rows of columns.
            batch_size: rows in one pass, of all prompts together.
            places: what each row is called in messages; None counts them.

        Raises:
            BadInput: as in `Responder.examples`.
        """
        known: dict[str, Examples] = {}
        for responder in self.responders:
            if (key := responder.writing) not in known:
                known[key] = responder.examples(inputs, places)
        examples = [known[responder.writing] for responder in self.responders]
        alone = [number for number, rows in enumerate(examples) if rows.windows is not None and self._writes(number)]
        cells = [
            (row, number) for row in range(len(inputs)) for number in range(len(self.responders)) if number not in alone
        ]
        # The longest rows come first: a pass then holds rows of similar length, and little padding.
        lengths = [
            (rows.lengths + responder.stored.length).tolist()
            for rows, responder in zip(examples, self.responders, strict=True)
        ]
        cells.sort(key=lambda cell: -lengths[cell[1]][cell[0]])
        cuts = _cut(cells, batch_size)
        for number in alone:
            cuts += _cut([(row, number) for row in range(len(inputs))], batch_size)
        return [Pass(self, cut, examples, cut[0][1] in alone) for cut in cuts]

    def _writes(self, number: int) -> bool:
        """Whether a prompt answers in free text, which is the best of all windows of a row."""
        responder = self.responders[number]
        return responder.way == "generate" and responder.task.answer == "text"


@final
@dataclass(frozen=True, eq=False)
class Pass:
    """Rows that the model answers at once.

    Args:
        group: the prompts.
        cells: the rows, each with its prompt.
        examples: the tokens of all rows, for each prompt.
        is_in_windows: whether the rows, all of one prompt, are read in several windows each.
    """

    group: Group
    cells: Sequence[Cell]
    examples: Sequence[Examples]
    is_in_windows: bool = False

    @torch.no_grad()
    def answers(self, prompt_batch: PromptBatch) -> list[list[Any]]:
        """What stands in the columns of each cell."""
        if self.is_in_windows:
            return self._in_windows(prompt_batch)
        with evaluating(self.group.backbone.model):
            return self._answered(prompt_batch)

    def _answered(self, prompt_batch: PromptBatch) -> list[list[Any]]:
        backbone, way = self.group.backbone, self.group.responders[0].way
        owner = torch.tensor([number for _, number in self.cells])
        rows = Examples.gathered((self.examples[number], row) for row, number in self.cells)
        batch = rows.batch(range(len(self.cells)), owner, backbone.pad_id).to(backbone.device)
        if way == "generate":
            longest = self.group.responders[0].scoring.max_new_tokens
            texts = backbone.generate(prompt_batch, batch, max_new_tokens=longest)
            pairs = zip(self.cells, texts, strict=True)
            return [self.group.responders[number].written(text) for (_, number), text in pairs]
        if way == "number":
            pairs = zip(self.cells, backbone.logits(prompt_batch, batch)[:, 0, 0].tolist(), strict=True)
            return [self.group.responders[number].given(of_head) for (_, number), of_head in pairs]
        responders = [self.group.responders[number] for _, number in self.cells]
        readings = [responder.reading for responder in responders if responder.reading is not None]
        scores = scored_each(backbone, prompt_batch, batch, readings)
        return [responder.scored(of_row) for responder, of_row in zip(responders, scores, strict=True)]

    def _in_windows(self, prompt_batch: PromptBatch) -> list[list[Any]]:
        number = self.cells[0][1]
        responder = self.group.responders[number]
        if isinstance(responder.stored, SoftPrompt):
            prompt_batch = PromptBatch.of(responder.stored, device=responder.backbone.device)
        answers = answer(
            responder.backbone,
            prompt_batch,
            self.examples[number].select([row for row, _ in self.cells]),
            responder.task,
            decode="generate",
            max_new_tokens=responder.scoring.max_new_tokens,
            batch_size=len(self.cells),
        )
        return [responder.values(answers, place) for place in range(len(self.cells))]


def _cut(cells: Sequence[Cell], size: int) -> list[Sequence[Cell]]:
    return [cells[start : start + size] for start in range(0, len(cells), size)]
