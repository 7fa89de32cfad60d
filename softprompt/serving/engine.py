"""The engine: texts to rows, and rows of any prompts to answers, in passes that they share."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from ..backbones import AbstractBackbone, evaluating
from ..data import Examples, tokenize
from ..errors import BadInput
from ..inference.answers import Answers, answer
from ..inference.mixed import scored_each
from ..inference.predict import as_row, is_blank
from ..inference.rows import text_format
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.prompt import LinearHead
from .faults import TooLate, TooLong
from .generation import Writing, until
from .passes import Limits, next_pass
from .prefixes import PREFIX_BYTES, PrefixStore
from .served import ServedPrompt
from .work import Answer, Work

Outcome = Answer | Exception
# Characters of a token at most, by which a text is refused before it costs anything.
LONGEST_TOKEN = 64


@final
class Engine:
    """One frozen model that answers rows of many prompts.

    `work` may be called in any thread, `run` in one thread at a time.

    Args:
        backbone: the frozen model.
        prefix_bytes: memory of the prompts that are kept compiled (`PrefixStore`).
    """

    def __init__(self, backbone: AbstractBackbone, *, prefix_bytes: int = PREFIX_BYTES):
        self.backbone, self.prefixes = backbone, PrefixStore(backbone, prefix_bytes)
        # Tokenizers are set to a padding and a length while they read, and so read for one caller at a time.
        self._reading = threading.Lock()

    def work(
        self,
        served: ServedPrompt,
        given: str | Mapping[str, Any],
        *,
        truncate: bool = False,
        calibrate: bool = True,
        max_new_tokens: int | None = None,
        stops: tuple[str, ...] = (),
        deadline: float = float("inf"),
        tell: Callable[[str], None] | None = None,
    ) -> Work:
        """A text or a row of columns as work for this prompt.

        Args:
            served: the prompt.
            given: a text where the prompt's task has one column, or a row of its columns.
            truncate: whether a text that is too long loses its end; otherwise it is refused.
            calibrate: as in `softprompt.predict`.
            max_new_tokens: longest generated answer; None is as the prompt was trained.
            stops: as in `Work`.
            deadline: as in `Work`.
            tell: as in `Work`.

        Raises:
            BadInput: the text is blank, is no text that can be encoded, or lacks a column.
            TooLong: the text is longer than what fits beside the prompt.
        """
        asked = served.asked
        row = as_row(asked.task, given)
        if is_blank(asked.task, row):
            raise BadInput("this text is blank; give words to answer")
        texts = [value for value in row.values() if isinstance(value, str)]
        # Of what is read in windows nothing is cut, however long it is.
        if not truncate or asked.task.window:
            _refuse_overlong(texts, LONGEST_TOKEN * asked.limit)
        _refuse_no_text(texts)
        with self._reading:
            examples = self._examples(served, row)
        truncated = bool(examples.truncated)
        if truncated and not truncate:
            raise TooLong(
                f"this text is longer than the {asked.limit} tokens that fit beside the prompt; shorten it, or give "
                '"truncate": true to have its end left out'
            )
        work = Work(served, examples, truncated, calibrate, 0, stops, deadline, tell)
        if asked.writes:
            most = self.backbone.max_positions
            longest = max_new_tokens or asked.scoring.max_new_tokens
            work.wants = longest if most is None else max(1, min(longest, most - work.length + 1))
        return work

    def _examples(self, served: ServedPrompt, row: Mapping[str, Any]) -> Examples:
        task, limit = served.asked.task, served.asked.limit
        reading = text_format(self.backbone, task)
        return tokenize([row], task, reading, max_length=limit, cache=False, targets=False, places=["this row"])

    def answer(self, works: Sequence[Work], limits: Limits | None = None) -> list[Answer]:
        """The answers to rows of any prompts, in their order.

        Args:
            works: the rows.
            limits: of a pass.

        Raises:
            SoftPromptError: of the first row that has no answer.
        """
        limits, waiting = limits or Limits(), list(works)
        outcomes: dict[Work, Outcome] = {}
        while waiting:
            chosen = next_pass(waiting, limits, self.backbone.max_positions)
            outcomes.update(zip(chosen, self.run(chosen), strict=True))
            waiting = [work for work in waiting if work not in outcomes]
        answers = [outcomes[work] for work in works]
        if (error := next((outcome for outcome in answers if isinstance(outcome, Exception)), None)) is not None:
            raise error
        return [outcome for outcome in answers if isinstance(outcome, Answer)]

    @torch.no_grad()
    def run(self, works: Sequence[Work]) -> list[Outcome]:
        """One pass over rows that `next_pass` chose: for each its answer, or the error that it has.

        Where a pass fails, each of its rows gets a pass of its own, so that no row fails for another's fault.
        """
        try:
            with evaluating(self.backbone.model):
                return list(self._pass(works))
        except Exception as error:
            if len(works) == 1:
                return [error]
        return [outcome for work in works for outcome in self.run([work])]

    def _pass(self, works: Sequence[Work]) -> Sequence[Outcome]:
        if works[0].is_alone:
            return [self._in_windows(work) for work in works]
        prompts = list({id(work.served): work.served for work in works}.values())
        place = {id(served): number for number, served in enumerate(prompts)}
        owner = torch.tensor([place[id(work.served)] for work in works])
        prompt_batch = stacked(prompts, self.backbone)
        rows = Examples.gathered((work.row, 0) for work in works)
        batch = rows.batch(range(len(works)), owner, self.backbone.pad_id).to(self.backbone.device)
        if works[0].served.asked.writes:
            return self._written(works, prompt_batch, batch)
        if self.backbone.answers == "linear-head":
            return self._by_heads(works, prompt_batch, batch)
        return self._scored(works, self.prefixes.known(works, prompts, prompt_batch), batch)

    def _scored(self, works: Sequence[Work], prompt_batch: PromptBatch, batch: TextBatch) -> list[Outcome]:
        readings = [reading for work in works if (reading := work.served.asked.reading) is not None]
        scores = scored_each(self.backbone, prompt_batch, batch, readings)
        return [_labelled(work, of_row) for work, of_row in zip(works, scores, strict=True)]

    def _by_heads(self, works: Sequence[Work], prompt_batch: PromptBatch, batch: TextBatch) -> list[Outcome]:
        logits = self.backbone.logits(prompt_batch, batch)[:, 0].cpu()
        return [_of_head(work, row) for work, row in zip(works, logits, strict=True)]

    def _written(self, works: Sequence[Work], prompt_batch: PromptBatch, batch: TextBatch) -> Sequence[Outcome]:
        writing = Writing(works, self.backbone.tokenizer, self.backbone.ends)
        most = max(work.wants for work in works)
        self.backbone.answer_ids(prompt_batch, batch, max_new_tokens=most, watch=writing)
        return writing.outcomes()

    def _in_windows(self, work: Work) -> Outcome:
        served = work.served
        if work.left or time.monotonic() > work.deadline:
            return TooLate("the time for this request was over before it was answered")
        prompt_batch = stacked([served], self.backbone)
        answers = answer(self.backbone, prompt_batch, work.row, served.asked.task, max_new_tokens=work.wants)
        whole = answers.texts[0]
        text = until(whole, work.stops).strip()
        with self._reading:
            # Of the window that was chosen, with the end of sequence.
            tokens = len(self.backbone.encode_answers([whole])[0])
        finish = "stop" if tokens <= work.wants or text != whole else "length"
        return Answer(text, text, None, min(tokens, work.wants), finish)


def stacked(prompts: Sequence[ServedPrompt], backbone: AbstractBackbone) -> PromptBatch:
    """The prompts of one pass; heads of fewer classes are filled up with rows that nobody reads."""
    heads = [LinearHead(h.weight.to(backbone.device), h.bias.to(backbone.device)) for p in prompts if (h := p.head)]
    classes = max((len(head.bias) for head in heads), default=0)
    padded = [head if len(head.bias) == classes else _filled_up(head, classes) for head in heads]
    return PromptBatch.stack([p.vectors(backbone) for p in prompts], padded, [p.deep(backbone) for p in prompts])


def _filled_up(head: LinearHead, classes: int) -> LinearHead:
    return LinearHead(*(torch.cat([t, t.new_zeros(classes - len(t), *t.shape[1:])]) for t in (head.weight, head.bias)))


def _labelled(work: Work, scores: Tensor) -> Answer:
    """The answer by label scores, calibrated as the prompt says."""
    asked = work.served.asked
    answers = Answers.of_scores(scores[None], asked.task).usable()
    return Answer.first_of(answers.calibrated(asked.scoring.calibration, asked.task) if work.calibrate else answers)


def _of_head(work: Work, logits: Tensor) -> Answer:
    task = work.served.asked.task
    if task.answer == "number":
        return Answer.first_of(Answers.of_numbers([float(logits[0])]).usable())
    wide = logits[: len(task.labels)].to(torch.promote_types(logits.dtype, torch.float32))
    return _labelled(work, wide.log_softmax(-1).float())


def _refuse_overlong(texts: Sequence[str], most: int) -> None:
    """Refuse what no tokenizer makes short enough, before it costs anything."""
    if (length := sum(map(len, texts))) > most:
        raise TooLong(f"this text has {length} characters, {most} are read at most; send less")


def _refuse_no_text(texts: Sequence[str]) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise BadInput("this text holds half of a surrogate pair, which is no character; send valid text") from error
