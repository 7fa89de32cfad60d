"""Scores of a prompt on a task: its rows, the model's answers to them, and metrics over both."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone
from ..baselines import answering
from ..checks import require_kind, require_numbers
from ..data import Examples, Rows, drawn_rows, warn_of_unknown
from ..errors import BadInput
from ..prompts.batch import PromptBatch
from ..prompts.tuned import Stored
from ..settings import ModelSpec
from ..tasks import Task, Wording, allowed, on_rows
from .answers import Answers, answer
from .asked import task_of
from .class_scores import calibration_error
from .decoding import Decode, refuse_decoding, refuse_idle_normalization
from .prompt_model import backbone_of, model_for
from .report import Report, row_answers
from .rows import examples_for, tell_truncated
from .scoring import scoring_of


def evaluate(
    prompt: Stored,
    rows: Any = None,
    *,
    task: "Task | str | None" = None,
    style: str | None = None,
    instruction: str | None = None,
    template: str | None = None,
    label_words: Mapping[Any, str] | Sequence[str] | None = None,
    model: "str | Path | ModelSpec | AbstractBackbone | None" = None,
    data_root: "str | Path | None" = None,
    split: str = "test",
    test_rows: int | None = None,
    seed: int = 0,
    id_column: str | None = None,
    delimiter: str = "",
    decode: Decode | None = None,
    normalize: str | None = None,
    calibrate: bool = True,
    batch_size: int = 32,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    max_bad_rows: int = 0,
    allow_files: bool = False,
    **keywords: Any,
) -> Report:
    """The prompt's metrics on a split, by the same split rule as training used, and what stands behind them.

    Args:
        prompt: a stored prompt, or trained weights.
        rows: other rows than the task's, scored whole: a file, a list of dicts, a DataFrame, a `datasets.Dataset`; or a
            dict of splits, of which `split` is scored by the split rule of training.
        task: what to answer; None takes the prompt's own task.
        style: "numeric", "words", "t5" or "pet-0" ...; None is the style of training, or the default for another task.
        instruction: stands on a line before the text of each row, in the place of the task's; "" is none.
        template: text with {column} fields, in the place of the task's.
        label_words: by label, or in the order of the labels, in the place of the task's.
        model: the frozen model; None loads the one that the prompt names.
        data_root: folder with rows; None asks the hub (or reads the files of a custom task).
        split: "train", "validation" or "test".
        test_rows: so many rows of the split, drawn by `seed`; None, or more than there are, is all of them.
        seed: of the draw.
        id_column: column whose values name the rows in `Report.rows`; None takes their numbers in the file, from 1.
        delimiter: character between the fields of `rows` in CSV or TSV; "" is a comma, or a tab in .tsv.
        decode: "scores", "generate" or "auto": scores where there are label words; None is as the prompt was trained.
        normalize: "sum", "mean" or "first" token of label scores; None is as the prompt was trained.
        calibrate: whether label scores are calibrated where the prompt was stored with a calibration; its bias may
            change answers.
        batch_size: rows in one pass.
        max_length: tokens of text; None takes the task's.
        max_new_tokens: longest generated answer; None is as the prompt was trained.
        max_bad_rows: malformed rows to drop before it is an error.
        allow_files: whether files are read that a prompt from elsewhere names as its rows. A run of your own may.
        keywords: fields of ModelSpec in place of a spec: `device`, `dtype`, `engine`, `quantize`, whatever the prompt
            was trained on.

    Raises:
        ModelMismatch: the prompt belongs to another model.
        BadInput: the data cannot be used, or a loaded model is not what the keywords say.
        UnknownName: a keyword that is no field of ModelSpec, or no such `normalize`.
    """
    counts = {"batch_size": batch_size, "max_length": max_length, "max_new_tokens": max_new_tokens}
    require_numbers(counts, whole=True)
    require_kind("test_rows", test_rows, int | None)
    spec = model_for(prompt, model, keywords)
    wording = Wording(instruction=instruction, template=template, label_words=label_words)
    chosen = task_of(prompt, task, style, wording)
    if allow_files:
        chosen = allowed(chosen)
    if max_length is not None:
        chosen = dataclasses.replace(chosen, max_length=max_length)
    scoring = scoring_of(prompt, normalize, calibrate, chosen)
    decode = decode or scoring.decode
    refuse_decoding(chosen, decode, prompt.provenance.answers)
    if normalize is not None:
        refuse_idle_normalization(normalize, chosen, decode, prompt.provenance.answers)
    if rows is not None:
        if split != "test" and not isinstance(rows, Mapping):
            raise BadInput(f"rows without splits are scored whole, there is no {split!r} of them; leave split out")
        chosen = on_rows(chosen, rows, delimiter, more=(id_column,) if id_column else ())
    # Rows first: their faults are found in seconds, while a model may take minutes to load.
    drawn, of = drawn_rows(
        chosen, data_root, max_bad_rows, split=split, count=test_rows, seed=seed, id_column=id_column
    )
    backbone = backbone_of(prompt, spec)
    examples = examples_for(backbone, chosen, drawn, prompt.length)
    tell_truncated(examples, f"{split} rows")
    warn_of_unknown(examples, backbone.tokenizer, backbone.name, split)
    with answering(prompt, backbone) as before:
        answers = answer(
            backbone,
            PromptBatch.of(before, device=backbone.device),
            examples,
            chosen,
            decode=decode,
            scoring=scoring,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
    ids = drawn.columns[id_column] if id_column else drawn.numbers
    return dataclasses.replace(_report(chosen, examples, answers, drawn, ids), of=of)


def _report(task: Task, examples: Examples, answers: Answers, rows: Rows, ids: Sequence[Any]) -> Report:
    """The metrics of the answers, and what stands behind them, by the ids of the rows."""
    whole = Report.from_answers(task, examples, answers)
    chances = None if answers.scores is None else answers.scores.softmax(-1)
    texts = [task.render(row).text for row in rows]
    return dataclasses.replace(
        whole,
        calibration_error=None if chances is None else calibration_error(chances.numpy(), whole.gold),
        answered=partial(row_answers, task, whole, ids, texts, answers.texts, chances),
    )
