"""Warnings about failures that look like results: a prompt that learned nothing, or whose norm is out of range."""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from ..data import Splits, rows_of
from ..inference.report import majority_score
from ..inference.scoring_rule import with_loss
from ..prompts.units import norm_warning, prompt_norm
from ..settings import PromptSettings, TrainSettings
from ..tasks import SPLITS, Task, Wording, in_lines
from ._frozen import Comparison
from ._last import Last
from ._member import FleetMember
from ._records import read_record
from ._run_data import RunData
from .beginnings.auto import EXAMPLES, SHOWN, may_show

# What a user should look at in a prompt; a study, which stores it, silences this logger.
ADVICE = "softprompt.advice"
log = logging.getLogger(ADVICE)


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Hide the warnings about single prompts within the block: where hundreds are trained, their results hold them."""
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


# A decoder's prompt of more token norms than this has saturated the model's norms: its words are drowned by rounding.
EXPLODED = 100.0
# The mean loss over the last tenth of the steps has to be at least this share below that over the first tenth.
FLAT = 0.02


def not_learning(member: FleetMember, run_data: RunData) -> list[str]:
    """Return warnings if the score is no better than the majority class, or the loss no better than a guess.

    That the loss fell says little where rows have labels: it falls while a model learns the form of an answer, and
    nothing of what is right. A score that has come half of the way from the majority class to 1 shows that the prompt
    learns, whatever its loss. Where it is not known what a guess costs, the loss has to fall.

    Args:
        member: a prompt at its end.
        run_data: the run.
    """
    task, gold, remedies = run_data.task, run_data.validation.gold, _remedies(member)
    warnings, learned = [], False
    if member.best is not None and task.answer == "label":
        constant = majority_score(task, [g for g in gold if isinstance(g, int)])
        learned = member.best_score > (1 + constant) / 2
        if member.best_score <= constant:
            warnings.append(
                f"{member.name}: not learning: its best validation score {member.best_score:.4f} is not above always "
                f"answering the most frequent class ({constant:.4f}); {remedies}"
            )
    reason = None if learned else _of_loss(member, run_data)
    return [*warnings, f"{member.name}: not learning: {reason}; {remedies}"] if reason else warnings


def _of_loss(member: FleetMember, run_data: RunData) -> str | None:
    """What shows that the loss of a prompt has come to nothing, or None."""
    first, last = _ends(member.record.path)
    settings = with_loss(run_data.plan.settings, run_data.task, run_data.backbone)
    guess = _cost_of_a_guess(run_data, settings)
    if last <= (1 - FLAT) * (first if guess is None else guess):
        return None
    if guess is None:
        unit = "squared deviations" if member.trainable.numbers else "nats"
        return f"the loss went from {first:.4f} to {last:.4f} {unit}"
    return (
        f"the loss of its last steps is {last:.4f} nats, that of a guess among {len(run_data.task.labels)} labels is "
        f"{guess:.4f} under --loss={settings.loss}"
    )


def _cost_of_a_guess(run_data: RunData, settings: TrainSettings) -> float | None:
    """The loss of a guess among the labels, in nats; None where there are none, or weights or smoothing change it."""
    task = run_data.task
    if task.answer != "label" or settings.class_weights or settings.label_smoothing:
        return None
    guess = math.log(len(task.labels))
    # A mean over the tokens of the answer, of which a guess leaves open only which label they are.
    of_tokens = guess * run_data.train.answer_lengths.float().reciprocal().mean().item()
    return {"labels": guess, "tokens": of_tokens, "both": (guess + of_tokens) / 2}[settings.loss]


def better_begun(asked: Sequence[PromptSettings], run_data: RunData) -> list[str]:
    """Return one line if the default began a prompt as the instruction, and examples after it would be short.

    Args:
        asked: the prompts as they were given.
        run_data: what became of them.
    """
    tokens = run_data.train.lengths.float().mean().item()
    pairs = zip(asked, run_data.plan.prompts, strict=True)
    is_default = any(given.init == "auto" and decided.init == "instruction" for given, decided in pairs)
    if not is_default or not may_show(run_data.task, run_data.backbone, tokens):
        return []
    return [
        f"--init={EXAMPLES} begins as the instruction and four of your rows: on three tasks it ended .05 to .09 above "
        f"the instruction alone on a real model, for about {SHOWN * tokens:.0f} tokens more a row; whoever has the "
        "prompt can read these rows in it"
    ]


def _remedies(member: FleetMember) -> str:
    """What to change where nothing is learned: of a head alone, neither the prompt's rate nor its beginning."""
    settings, method = member.settings, member.trainable.method
    rate = f"--lr (a tenth or three times {settings.lr:g})"
    if not method.m and not method.weights:
        rate = f"--head-lr (a tenth or three times {settings.head_lr:g})"
    return f"try another {rate}, more --steps, {'--init vocabulary, ' if method.m else ''}or another --method"


@final
class ExplosionWatch:
    """Warns while a decoder's prompts train, once a prompt, if a norm explodes in the first half of the run.

    Encoder-decoders learn at such norms (docs/results/claims.md), so nothing is said of them.

    Args:
        kind: kind of the backbone.
        steps: optimiser steps of the run.
    """

    def __init__(self, kind: str, steps: int):
        self.last_step = steps // 2 if kind == "decoder" else 0
        self.warned: set[str] = set()

    def see(self, member: FleetMember, step: int, token_norms: float) -> None:
        """Look at the mean norm of a prompt's vectors before a step, in token norms."""
        # The candidates of a race are one prompt.
        name = member.name.partition("#")[0]
        if step > self.last_step or token_norms <= EXPLODED or name in self.warned:
            return
        self.warned.add(name)
        log.warning(f"{name}: step {step}: {_norm_warning(member, token_norms)}")


def no_words(declared: Task, chosen: Task, wording: Wording, kind: str) -> list[str]:
    """Return a line if a decoder reads rows of a user who has not said what it is to do.

    Args:
        declared: the task as the user made it.
        chosen: the task as it is put to the model.
        wording: the user's own words.
        kind: kind of the backbone.
    """
    has_template = wording.template is not None or in_lines(declared) == declared
    if kind != "decoder" or chosen.answer != "label" or chosen.instruction or has_template:
        return []
    return [
        "this task has no instruction and no template: give --instruction, --template and --label-words, and see by "
        "`softprompt frozen` what they are worth before any training"
    ]


def repeated(task: Task, splits: Splits) -> list[str]:
    """Return a line for each two splits of a user's rows that share texts; none where a program gives the same twice.

    Args:
        task: the task.
        splits: its rows.
    """
    lines, memory = [], task.source.memory
    for earlier, later in itertools.combinations(SPLITS, 2) if task.source.is_own else ():
        known, texts = set(_texts(splits, earlier, task)), _texts(splits, later, task)
        count = sum(text in known for text in texts)
        if count and not (earlier in memory and memory[earlier] == memory.get(later)):
            lines.append(
                f"{count} of {len(texts)} {later} rows have a text of the {earlier} rows, so that their score says "
                "less of new rows; take such rows out of one of the two"
            )
    return lines


def _texts(splits: Splits, split: str, task: Task) -> list[tuple[str, ...]]:
    """What the model reads of each row of a split."""
    columns = rows_of(splits, split).columns
    return list(zip(*(columns[name] for name in task.read if name != task.target), strict=True))


def not_better(comparison: Comparison | None) -> list[str]:
    """Return a line for each prompt that scores no better than the frozen model without training, on the same rows."""
    if comparison is None or comparison.reference == "majority":
        return []
    best = comparison.best
    words = "the hand-written instruction" if best.name == "instruction" else "the frozen model without a prompt"
    # Every score has 1 as its largest value.
    advice = f"use {words}, or try more --steps, another --lr or another --method"
    if best.score == 1:
        advice = f"{words} has no mistake on these rows, so they cannot show a gain"
    return [
        f"{trained.name}: no better than {words}: {trained.score:.4f} against {best.score:.4f} on the same "
        f"{comparison.rows} test rows; {advice}"
        for trained in comparison.prompts
        if trained.difference <= 0
    ]


def worse_calibrated(member: FleetMember, last: Last) -> list[str]:
    """Return a warning if a calibration answers worse than no calibration the rows on which it was fitted."""
    if last.calibrated is None:
        return []
    before, after = (last.calibrated["validation"][when]["score"] for when in ("before", "after"))
    if after >= before:
        return []
    return [
        f"{member.name}: calibrated, its score on the validation rows is {after:.4f}, and {before:.4f} as it was "
        "chosen: honest probabilities are not always better answers; compare evaluate --no-calibrate"
    ]


def wrong_scale(member: FleetMember) -> list[str]:
    """Return a warning if the norm of the best stored prompt is out of range."""
    norm = None if member.best is None else prompt_norm(member.best.vectors)
    token_norm = member.trainable.token_norm
    if norm is None or token_norm is None:
        return []
    warning = _norm_warning(member, norm / token_norm)
    return [f"{member.name}: {warning}"] if warning else []


def _norm_warning(member: FleetMember, token_norms: float) -> str | None:
    """Return what is wrong with a norm of this prompt, in token norms; None if nothing is."""
    training = member.provenance.training
    return norm_warning(
        token_norms,
        one_vector=member.trainable.method.one_vector and not member.trainable.begins_at_words,
        lr=training["lr"],
        units=training["units"],
        has_radius=member.trainable.method.is_direction,
    )


def _ends(path: Path) -> tuple[float, float]:
    """Return the mean loss over the first and over the last tenth of the steps."""
    losses = [row["loss"] for row in read_record(path) if "loss" in row]
    tenth = max(1, len(losses) // 10)
    if len(losses) < 2:
        return 1.0, 0.0
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
