"""Answers of a stored prompt to new inputs."""

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone, load_backbone
from ..baselines import answering
from ..checks import listed, require_numbers
from ..data import warn_of_unknown
from ..errors import BadInput, UnknownName
from ..prompts.batch import PromptBatch
from ..prompts.tuned import Stored
from ..settings import ModelSpec
from ..tasks import ABSENT, Task, Wording, holds_rows, is_a, plain_cell, row_dicts, value_of
from .answers import Answers, answer
from .asked import task_of
from .decoding import Decode, decoding, refuse_decoding
from .prompt_model import backbone_of, model_for
from .rows import examples_for, tell_truncated
from .scoring import scoring_of

log = logging.getLogger("softprompt")
# Batches that are answered together, the longest rows first: one at first, so that answers appear soon.
MOST_BATCHES = 8
_KEPT = threading.Lock()


def kept_model(spec: ModelSpec) -> AbstractBackbone:
    """The model of this spec, loaded once and kept for the next call, of any thread."""
    with _KEPT:
        return loaded_model(spec)


@functools.lru_cache(maxsize=2)
def loaded_model(spec: ModelSpec) -> AbstractBackbone:
    """The model of this spec; use `kept_model`, because two threads would load it twice."""
    return load_backbone(spec)


# The warning of inputs without a word: their number, that of all, and the place of the first.
BLANK = "%d of %d inputs are blank, the first is %s: an answer to one says nothing"


def as_row(task: Task, given: "str | Mapping[str, Any]") -> dict[str, Any]:
    """A row of the task's columns, those of objects inside it by their dots; a plain text is the only column.

    Raises:
        BadInput: a plain text for a task of several columns.
    """
    if isinstance(given, Mapping):
        inner = {name: plain_cell(value) for name in task.columns if (value := value_of(given, name)) is not ABSENT}
        return {**given, **inner}
    if len(task.columns) != 1:
        needed = ", ".join(repr(c) for c in task.columns)
        raise BadInput(
            f"task {task.name!r} reads several columns ({needed}); give each input as a row with these names"
        )
    return {task.columns[0]: given}


def texts_or_rows(inputs: Any) -> list[Any]:
    """The inputs one by one, the rows of a table as dicts; a text or a row alone is one input.

    Raises:
        BadInput: no list; something of which Python would go through the names of the columns; or an input that is
            neither a text nor a row.
    """
    if is_a(inputs, "pandas", "Series"):
        inputs = inputs.tolist()
    elif isinstance(inputs, Mapping) and all(isinstance(value, str | int | float | None) for value in inputs.values()):
        inputs = [inputs]
    elif holds_rows(inputs):
        inputs = row_dicts(inputs)
    given = listed("inputs", inputs)
    for number, value in enumerate(given, 1):
        if not isinstance(value, str | Mapping):
            kind = type(value).__name__
            raise BadInput(f"input {number} is a {kind}, not a text or a row: {value!r}; give one of these")
    return given


def predict(
    prompt: Stored,
    inputs: Any,
    *,
    task: "Task | str | None" = None,
    style: str | None = None,
    instruction: str | None = None,
    template: str | None = None,
    label_words: Mapping[Any, str] | Sequence[str] | None = None,
    model: "str | Path | ModelSpec | AbstractBackbone | None" = None,
    batch_size: int = 32,
    decode: Decode | None = None,
    calibrate: bool = True,
    max_new_tokens: int | None = None,
    tell: "Callable[[list[dict[str, Any]]], None] | None" = None,
    places: Sequence[str] | None = None,
    **keywords: Any,
) -> list[dict[str, Any]]:
    """One answer an input: {text, label, scores} for label words, else {text, output}.

    `scores` are probabilities over the label words: softmax of the label scores. `text` is the input as it was given,
    or, of a task of several columns, all of them as the task's template puts them.

    Texts that the model cannot read whole, and blank ones, are told of by a warning.

    Args:
        prompt: a stored prompt, or trained weights.
        inputs: texts, or rows with the task's columns: a list, a pandas DataFrame or Series, a `datasets.Dataset`; or
            one text or row alone.
        task: what to answer; None takes the prompt's own task.
        style: "numeric", "words", "t5" or "pet-0" ...; None is the style of training, or the default for another task.
        instruction: as in `evaluate`.
        template: as in `evaluate`.
        label_words: as in `evaluate`.
        model: the frozen model; None loads the one that the prompt names, and keeps it for the next call.
        batch_size: inputs in one pass.
        decode: "scores", "generate" or "auto", as in `evaluate`; None is as the prompt was trained.
        calibrate: whether label scores are calibrated where the prompt was stored with a calibration; its bias may
            change answers.
        max_new_tokens: longest generated answer; None is as the prompt was trained.
        tell: sees the next answers, in the order of the inputs, as soon as they are there.
        places: what each input is called in messages, as "rows.csv:3"; None counts them: "input 3".
        keywords: fields of ModelSpec in place of a spec, as in `evaluate`.

    Raises:
        ModelMismatch: the prompt belongs to another model.
        BadInput: an input that is no text and no row, or lacks a column; inputs that are all blank; a size below 1.
    """
    require_numbers({"batch_size": batch_size, "max_new_tokens": max_new_tokens}, whole=True)
    spec = model_for(prompt, model, keywords)
    given = texts_or_rows(inputs)
    wording = Wording(instruction=instruction, template=template, label_words=label_words)
    task = task_of(prompt, task, style, wording)
    rows = [as_row(task, text) for text in given]
    if not rows:
        return []
    named = [f"input {number}" for number in range(1, len(rows) + 1)] if places is None else places
    _tell_blank(task, rows, named)
    # Before the model: what a row lacks is found in no time.
    scoring = scoring_of(prompt, calibrate=calibrate, task=task)
    decode = decode or scoring.decode
    refuse_decoding(task, decode, prompt.provenance.answers)
    texts = [_text(task, row, place) for row, place in zip(rows, named, strict=True)]
    if isinstance(spec, ModelSpec) and (model is None or (isinstance(model, ModelSpec) and not model.name)):
        spec = kept_model(spec)
    backbone = backbone_of(prompt, spec)
    examples = examples_for(backbone, task, rows, prompt.length, targets=False, places=named)
    tell_truncated(examples, "inputs")
    warn_of_unknown(examples, backbone.tokenizer, backbone.name)
    scored = decoding(task, backbone, decode) == "scores"
    answered: list[dict[str, Any]] = []
    with answering(prompt, backbone) as before:
        prompt_batch = PromptBatch.of(before, device=backbone.device)
        for part in _parts(len(rows), batch_size):
            answers = answer(
                backbone,
                prompt_batch,
                examples.select(part),
                task,
                decode=decode,
                scoring=scoring,
                max_new_tokens=max_new_tokens or scoring.max_new_tokens,
                batch_size=batch_size,
            )
            answered += [_line(task, texts[row], answers, place, scored) for place, row in enumerate(part)]
            if tell is not None:
                tell(answered[-len(part) :])
    return answered


def _parts(count: int, batch_size: int) -> Iterator[range]:
    """The rows in order, in parts of one batch, then two, four and so on up to MOST_BATCHES."""
    start, batches = 0, 1
    while start < count:
        end = min(count, start + batches * batch_size)
        yield range(start, end)
        start, batches = end, min(2 * batches, MOST_BATCHES)


def _text(task: Task, row: Mapping[str, Any], place: str) -> str:
    """The text that an answer is given with: a single column as it is, several as they are rendered.

    Raises:
        BadInput: a column that lacks or holds no text, named with the place.
    """
    try:
        rendered = task.render(row).text
    except (BadInput, UnknownName) as error:
        raise BadInput(f"{place}: {error.message}") from error
    return str(row[task.columns[0]]) if len(task.columns) == 1 else rendered


def is_blank(task: Task, row: Mapping[str, Any]) -> bool:
    """Whether a row has all columns that the task reads, and no word in them."""
    return not any(str(row.get(name, "x")).strip() for name in task.columns)


def _tell_blank(task: Task, rows: Sequence[Mapping[str, Any]], places: Sequence[str]) -> None:
    """Warn of inputs without a word in any column; refuse inputs that are all so."""
    given = zip(places, rows, strict=True)
    blank = [place for place, row in given if is_blank(task, row)]
    if len(blank) == len(rows):
        raise BadInput("every input is blank; give words to answer")
    if blank:
        log.warning(BLANK, len(blank), len(rows), blank[0])


def _line(task: Task, text: str, answers: Answers, i: int, scored: bool) -> dict[str, Any]:
    if not scored or answers.scores is None:
        return {"text": text, "output": answers.texts[i]}
    probabilities = answers.scores[i].softmax(-1).tolist()
    return {"text": text, "label": answers.texts[i], "scores": dict(zip(task.labels, probabilities, strict=True))}
