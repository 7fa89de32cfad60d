"""What stands before the text of a row in a hand-written input: an instruction, and labelled rows as examples."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..backbones import AbstractBackbone
from ..data import Examples, Rows, few_shot, shared_ids, strata
from ..tasks import Task, answer_text, gold

# Rows that are looked at to find where the words before them end.
PROBED_ROWS = 64


def drawn_examples(task: Task, rows: Rows, shots: int, seed: int) -> list[dict[str, Any]]:
    """Return rows to show with their answers, balanced by class and in random order.

    Args:
        task: says the class of a row.
        rows: training rows.
        shots: how many; at least one for each class is drawn.
        seed: of rows and order.

    Raises:
        BadInput: a class with too few rows.
    """
    classes = strata([gold(task, row) for row in rows])
    names = task.label_values or task.labels
    chosen = few_shot(classes, shots=max(shots, len(set(classes))), seed=seed, names=names)
    random.Random(seed).shuffle(chosen)
    return [rows[index] for index in chosen]


def labelled_text(backbone: AbstractBackbone, task: Task, row: Mapping[str, Any]) -> str:
    """Return a row with its answer, as it stands before other rows: template, cue, answer and what follows it."""
    word = answer_text(task, gold(task, row))
    if task.is_cloze:
        return task.render(row, word).text + backbone.between_rows
    before = task.render(row).text + backbone.suffix(task.cue)
    if backbone.mask is not None:
        return before.replace(backbone.mask, word) + backbone.between_rows
    return before + ("" if before[-1:].isspace() else " ") + word.strip() + backbone.between_rows


def written(backbone: AbstractBackbone, task: Task, shown: Iterable[Mapping[str, Any]]) -> str:
    """Return rows with their answers, as they stand before a row."""
    return "".join(labelled_text(backbone, task, row) for row in shown)


def text_before(backbone: AbstractBackbone, task: Task, shown: Iterable[Mapping[str, Any]] = ()) -> str:
    """Return all that stands before the text of a row.

    Args:
        backbone: the frozen model, whose chat template opens a turn.
        task: its instruction comes first.
        shown: the rows that are shown with their answers.
    """
    return backbone.input_prefix + task.opening + written(backbone, task, shown)


def encoded(backbone: AbstractBackbone, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of whole inputs, with the special tokens that the tokenizer adds."""
    return backbone.tokenizer(list(texts), add_special_tokens=backbone.special_tokens, verbose=False)["input_ids"]


def opening_of(backbone: AbstractBackbone, task: Task, examples: Examples) -> tuple[int, ...]:
    """Return the token ids with which every row begins: beginning of sequence, the turn of a chat, the instruction.

    They end where all rows have the same ids, because some tokenizers join the end of an instruction with what follows.

    Args:
        backbone: the frozen model.
        task: the task.
        examples: its rows, tokenised with all that stands before them.
    """
    (alone,) = encoded(backbone, [text_before(backbone, task)])
    shared = int(examples.inputs.shared_with(alone).min())
    return tuple(alone[:shared])


def context_of(
    backbone: AbstractBackbone, task: Task, shown: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]
) -> tuple[int, ...]:
    """Return the token ids of opening and labelled examples as they stand before `rows`.

    They are what is left of a whole input without the ids of the row itself. A blank line between example and row may
    have other ids at the end of a text than before a row, and a row that begins with a blank may join it.

    Args:
        backbone: the frozen model.
        task: the task, with its `opening_ids`.
        shown: the rows that are shown with their answers.
        rows: rows that follow, by which the end of the context is found.
    """
    texts = [_text(backbone, task, row) for row in rows]
    before, opening = text_before(backbone, task, shown), text_before(backbone, task)
    rests = [ids[shared_ids(task.opening_ids, ids) :] for ids in encoded(backbone, [opening + text for text in texts])]
    whole = encoded(backbone, [before + text for text in texts])
    contexts = [tuple(a[: -len(b)]) for a, b in zip(whole, rests, strict=True) if b and a[-len(b) :] == b]
    if contexts:
        return Counter(contexts).most_common(1)[0][0]
    # Some tokenizers write every row otherwise at the start of a text: what all have in common comes nearest.
    (alone,) = encoded(backbone, [before])
    return tuple(alone[: min(shared_ids(alone, ids) for ids in whole)])


def _text(backbone: AbstractBackbone, task: Task, row: Mapping[str, Any]) -> str:
    """Return a row as it is read after the opening."""
    if task.is_cloze and backbone.mask is not None:
        return task.render(row, backbone.mask).text
    return task.render(row).text + backbone.suffix(task.cue)
