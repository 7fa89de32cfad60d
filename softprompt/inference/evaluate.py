"""Scores of a prompt on a task: its rows, the model's answers to them, and metrics over both."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..backbones import (
    AbstractBackbone,
    for_prompt,
    load_backbone,
    refuse_no_room,
    spec_or_backbone,
)
from ..baselines import answering, check
from ..checks import require_kind, require_numbers
from ..data import Examples, drawn_rows, tokenize, warn_of_unknown
from ..errors import BadInput
from ..metrics import headline_score, majority, score
from ..prompts.batch import PromptBatch
from ..prompts.tuned import Stored
from ..settings import ModelSpec
from ..tasks import Task, allowed, on_rows
from .answers import Answers, answer
from .asked import task_of
from .calibration import negative_log_likelihood
from .class_scores import calibration_error
from .decoding import Decode, before_answer, label_ids, refuse_decoding
from .report import Report, beside
from .scoring import NEW_TOKENS, scoring_of

log = logging.getLogger("softprompt")


def report(task: Task, examples: Examples, answers: Answers) -> Report:
    """The task's metrics, and `score`, the mean of its headline metrics."""
    metrics = score(task.metrics, answers.values, examples.gold)
    metrics["score"] = headline_score(metrics, task.scores)
    classes = [gold for gold in examples.gold if isinstance(gold, int)]
    loss = None if answers.scores is None or not classes else negative_log_likelihood(answers.scores, classes)
    return Report(metrics, len(examples), answers.invalid, answers.values, list(examples.gold), task, label_loss=loss)


def answer_positions(backbone: AbstractBackbone, task: Task) -> int:
    """Positions that an answer takes beside prompt and text: a decoder's, of the longest label or what is written."""
    if task.answer == "label" and backbone.answers != "linear-head":
        return backbone.answer_positions(label_ids(backbone, task))
    return backbone.answer_positions([[0] * (NEW_TOKENS + 1)])


def text_limit(backbone: AbstractBackbone, prompt_length: int, task: Task) -> int:
    """Tokens of text that fit beside a prompt and its answer: the task's length, or what the positions leave.

    What the prompt holds of a row (`Task.opening_ids`) counts to the text here, as in a hand-written input.

    Raises:
        BadInput: the prompt leaves no room.
    """
    if backbone.max_positions is None:
        return task.max_length
    answer = answer_positions(backbone, task)
    room = backbone.max_positions - prompt_length - answer
    is_label = task.answer == "label"
    refuse_no_room(prompt_length, room, backbone.max_positions, backbone.name, answer if is_label else 0)
    return min(task.max_length, room + len(task.opening_ids))


def examples_for(
    backbone: AbstractBackbone,
    task: Task,
    rows: Any,
    prompt_length: int,
    *,
    targets: bool = True,
    context: str = "",
    places: Sequence[str] | None = None,
) -> Examples:
    """Rows tokenised for a backbone, cut to the task's length and to what fits beside the prompt.

    Args:
        backbone: frozen.
        task: how rows are put.
        rows: with the task's columns.
        prompt_length: positions of the prompt.
        targets: whether rows hold answers.
        context: stands between the task's opening and each row; its tokens come on top of the task's length.
        places: what each row is called in messages; None takes its number in its file.

    Raises:
        BadInput: label words that the backbone cannot tell apart; and as in `tokenize`.
    """
    if task.answer == "label":
        # This check comes before the rows are read, and also applies to rows without answers.
        label_ids(backbone, task)
    limit = text_limit(backbone, prompt_length, _longer(task, backbone, context))
    refuse_long_instruction(backbone, task, limit)
    return tokenize(
        rows,
        task,
        tokenizer=backbone.tokenizer,
        answers=backbone.answers,
        encode_answers=partial(backbone.encode_answers, behind=before_answer(backbone, task)),
        suffix=backbone.suffix(task.cue),
        prefix=backbone.input_prefix + task.opening + context,
        mask=backbone.mask,
        special_tokens=backbone.special_tokens,
        max_length=limit,
        targets=targets,
        places=places,
    )


def refuse_long_instruction(backbone: AbstractBackbone, task: Task, limit: int) -> None:
    """Refuse an instruction beside which no text fits; a row is cut, its instruction never.

    Raises:
        BadInput: with what to do.
    """
    if not task.instruction:
        return
    tokens = len(backbone.tokenizer(task.opening, add_special_tokens=False, verbose=False).input_ids)
    if tokens >= limit:
        raise BadInput(
            f"the instruction is {tokens} tokens long, and a row may have {limit} with it; shorten --instruction, or "
            "raise --max-length where the model has the positions"
        )


def _longer(task: Task, backbone: AbstractBackbone, context: str) -> Task:
    """The task with room for a context besides."""
    if not context:
        return task
    tokens = len(backbone.tokenizer(context, add_special_tokens=False, verbose=False).input_ids)
    return dataclasses.replace(task, max_length=task.max_length + tokens)


def tell_truncated(examples: Examples, what: str) -> None:
    """Warn where rows are longer than the model reads them.

    Args:
        examples: the rows.
        what: what they are called, as in "test rows".
    """
    if examples.truncated:
        log.warning(
            "%d of %d %s (%.0f %%) are longer than the %d tokens that are read, and are cut: the end is not seen; "
            "shorten them, or train with a longer --max-length where the model has the positions",
            examples.truncated, len(examples), what, 100 * examples.truncated / len(examples),
            int(examples.lengths.max()),
        )  # fmt: skip


def evaluate(
    prompt: Stored,
    rows: Any = None,
    *,
    task: "Task | str | None" = None,
    style: str | None = None,
    model: "str | Path | ModelSpec | AbstractBackbone | None" = None,
    data_root: "str | Path | None" = None,
    split: str = "test",
    test_rows: int | None = None,
    seed: int = 0,
    id_column: str | None = None,
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
        model: the frozen model; None loads the one that the prompt names.
        data_root: folder with rows; None asks the hub (or reads the files of a custom task).
        split: "train", "validation" or "test".
        test_rows: so many rows of the split, drawn by `seed`; None, or more than there are, is all of them.
        seed: of the draw.
        id_column: column whose values name the rows in `Report.rows`; None takes their numbers in the file, from 1.
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
        UnknownName: a keyword that is no field of ModelSpec.
    """
    counts = {"batch_size": batch_size, "max_length": max_length, "max_new_tokens": max_new_tokens}
    require_numbers(counts, whole=True)
    require_kind("test_rows", test_rows, int | None)
    spec = model_for(prompt, model, keywords)
    chosen = task_of(prompt, task, style)
    if allow_files:
        chosen = allowed(chosen)
    if max_length is not None:
        chosen = dataclasses.replace(chosen, max_length=max_length)
    scoring = scoring_of(prompt, normalize, calibrate)
    decode = decode or scoring.decode
    refuse_decoding(chosen, decode, prompt.provenance.answers)
    if rows is not None:
        if split != "test" and not isinstance(rows, Mapping):
            raise BadInput(f"rows without splits are scored whole, there is no {split!r} of them; leave split out")
        chosen = on_rows(chosen, rows, more=(id_column,) if id_column else ())
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
            max_new_tokens=max_new_tokens or scoring.max_new_tokens,
            batch_size=batch_size,
        )
    whole = report(chosen, examples, answers)
    chances = None if answers.scores is None else answers.scores.softmax(-1).tolist()
    ids = drawn.columns[id_column] if id_column else drawn.numbers
    texts = [chosen.render(row).text for row in drawn]
    return dataclasses.replace(
        whole,
        of=of,
        calibration_error=None if chances is None else calibration_error(chances, whole.gold),
        rows=beside(chosen, whole, ids, texts, answers.texts, chances),
    )


def model_for(
    prompt: Stored, model: "str | Path | ModelSpec | AbstractBackbone | None", keywords: Mapping[str, Any]
) -> ModelSpec | AbstractBackbone:
    """The frozen model that a prompt is to work with: its own, unless another is given.

    Args:
        prompt: a stored prompt; how its model answers, and at which scale, is taken from it.
        model: as in `evaluate`.
        keywords: fields of ModelSpec, as in `evaluate`.

    Raises:
        UnknownName: a keyword that is no field.
        BadInput: a loaded model is not what the keywords say.
    """
    if not isinstance(prompt, Stored):
        raise BadInput(
            f"a {type(prompt).__name__} is no stored prompt; give run.prompt(0) of a run, or "
            "softprompt.load_prompt(path) of a folder"
        )
    spec = spec_or_backbone("" if model is None else model, keywords)
    if isinstance(spec, AbstractBackbone):
        return spec
    origin, answers = prompt.provenance.backbone, prompt.provenance.answers
    default = ModelSpec(origin.name, revision=origin.revision, answers=answers, embedding_scale=origin.embedding_scale)
    return for_prompt(spec, default)


def backbone_of(
    prompt: Stored, model: "str | Path | ModelSpec | AbstractBackbone | None" = None, **keywords: Any
) -> AbstractBackbone:
    """The frozen model a prompt works with, checked against it.

    Args:
        prompt: a stored prompt.
        model: as in `evaluate`.
        keywords: fields of ModelSpec, as in `evaluate`.

    Raises:
        ModelMismatch: the prompt belongs to another model.
        BadInput: a loaded model is not what the keywords say.
    """
    spec = model_for(prompt, model, keywords)
    backbone = spec if isinstance(spec, AbstractBackbone) else load_backbone(spec)
    check(prompt, backbone)
    return backbone


def majority_score(task: Task, gold: Sequence[int]) -> float:
    """The score of always answering the most frequent class."""
    most, _ = majority(gold)
    return headline_score(score(task.metrics, [most] * len(gold), list(gold)), task.scores)
