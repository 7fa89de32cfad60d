"""The first screen: the best setting beside what needs no training, and whether the gain is significant."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..metrics import ERRORS
from ..study.stability import Untrained
from ._entry import Entry, Sources
from ._settings import Setting, best_setting

if TYPE_CHECKING:
    from ..training import Comparison
    from ._answers import Answered

# With fewer seeds the interval of their mean is too narrow to judge by.
ENOUGH_SEEDS = 5
WORDS = {
    "majority": "always the most frequent class",
    "frozen": "frozen model, no prompt",
    "instruction": "frozen model, hand-written instruction",
}
# Where an error is the score, the constant answer is no class.
MEAN = "always the mean"
# What the mean over seeds is compared with: the first of these whose score is known.
REFERENCES = (WORDS["instruction"], WORDS["frozen"], WORDS["majority"], MEAN)
Verdict = Literal["better", "worse", "not shown", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One score of the ladder; `low` and `high` are the ends of its 95 % interval, None where there is none."""

    name: str
    score: float
    low: float | None = None
    high: float | None = None
    is_trained: bool = False


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What a reader sees first of a task on a model.

    Args:
        task: its name.
        model: its name.
        setting: the one that is chosen by its validation score.
        metric: what the score is, in words.
        score: mean test score of that setting.
        low: end of its 95 % interval.
        high: the other end.
        interval: what the interval is over, or why there is none.
        lines: without training, and trained, the weakest knowledge first.
        verdict: whether the gain is significant.
        sentence: the same in words.
        compared: on how many rows the lines without training were scored; empty where they are not known.
    """

    task: str
    model: str
    setting: Setting
    metric: str
    score: float
    low: float | None
    high: float | None
    interval: str
    lines: Sequence[Line]
    verdict: Verdict
    sentence: str
    compared: str


def headline(settings: Sequence[Setting], sources: Sources, answered: "Answered | None" = None) -> Headline | None:
    """The headline of the settings of one task and model; None where no prompt has a test score.

    Args:
        settings: of one task and model.
        sources: with the scores of the frozen model.
        answered: the answers of the best prompt to the test rows, where they are at hand.
    """
    scored = [setting for setting in settings if setting.numbers["mean"] is not None]
    chosen = best_setting(scored)
    if chosen is None:
        return None
    best, numbers = chosen.best, chosen.numbers
    if not _are_of(best, answered):
        answered = None
    comparison = best.comparison if best else None
    n = numbers["n"] - numbers["dropped"]
    low, high, over = numbers["low"], numbers["high"], f"over {n} seeds"
    if low is None:
        low, high, over = _row_interval(best, comparison, answered)
    untrained = _untrained(comparison, sources.untrained.get(chosen.entries[0].scored_on, ()), _constant(chosen))
    trained = Line(name=_trained_name(chosen, n), score=numbers["mean"], low=low, high=high, is_trained=True)
    verdict, sentence = _verdict(chosen, comparison, untrained, answered)
    return Headline(
        task=chosen.key[0],
        model=chosen.key[1],
        setting=chosen,
        metric=_metric(chosen.entries[0].run.spec.declared.scores),
        score=numbers["mean"],
        low=low,
        high=high,
        interval=over,
        lines=[*untrained, trained],
        verdict=verdict,
        sentence=sentence,
        compared=_drawn_rows(comparison),
    )


def _constant(setting: Setting) -> Line | None:
    """What always the same answer scores; None where no run knows it."""
    majority = next((entry.run.majority for entry in setting.entries if entry.run.majority is not None), None)
    is_number = setting.entries[0].run.spec.declared.answer == "number"
    return None if majority is None else Line(name=MEAN if is_number else WORDS["majority"], score=majority)


def _drawn_rows(comparison: "Comparison | None") -> str:
    """On how many rows the lines without training were scored, where that is not all."""
    if comparison is None or comparison.rows >= comparison.of:
        return ""
    return f"Scores without training are on {comparison.rows:,} test rows drawn of {comparison.of:,}."


def _are_of(best: Entry | None, answered: "Answered | None") -> bool:
    """Whether answers are those of this prompt to test rows; kept ones have the score that its run recorded."""
    if best is None or answered is None or answered.label != best.label or best.run.score is None:
        return False
    return answered.is_asked or _have_score_of(best, answered)


def _have_score_of(best: Entry, answered: "Answered") -> bool:
    return best.run.score is not None and math.isclose(answered.score, best.run.score, abs_tol=1e-9)


def _metric(names: Sequence[str]) -> str:
    words = [f"minus {name}" if name in ERRORS else name for name in names]
    return words[0] if len(words) == 1 else f"mean of {' and '.join(words)}"


def _trained_name(setting: Setting, n: int) -> str:
    return f"{setting.name}, {'one seed' if n == 1 else f'mean of {n} seeds'}"


def _row_interval(
    best: Entry | None, comparison: "Comparison | None", answered: "Answered | None"
) -> tuple[float | None, float | None, str]:
    """The interval of a single prompt's score over its test rows, and what it is over or why there is none."""
    line, others = _of(best, comparison), ""
    if best is not None and answered is not None and answered.interval is not None:
        if answered.is_of_run or _have_score_of(best, answered):
            return *answered.interval, f"over {answered.n:,} test rows"
        others = f"one seed, and its answers below are to {answered.n:,} test rows that it was not scored on"
    if line is None or comparison is None or line.interval is None or comparison.rows < comparison.of:
        return None, None, others or "one seed, and its answers are not kept"
    return *line.interval, f"over {comparison.rows:,} test rows"


def _of(best: Entry | None, comparison: "Comparison | None"):
    lines = comparison.prompts if comparison else ()
    return next((line for line in lines if best is not None and line.name == best.prompt), None)


def _untrained(comparison: "Comparison | None", kept: Sequence[Untrained], constant: Line | None) -> list[Line]:
    """The scores without training: of the run's comparison, of a stability store, or of a constant answer alone."""
    lines = list(kept) if comparison is None else [Untrained.of(line) for line in comparison.baselines]
    if not lines:
        return [] if constant is None else [constant]
    plain = [line for line in lines if line.draw is None]
    lines_of_table = [
        Line(name=WORDS.get(line.name, line.name), score=line.score, low=line.low, high=line.high) for line in plain
    ]
    draws = [line for line in lines if line.draw is not None]
    if draws:
        scores = [line.score for line in draws]
        name = f"frozen model, {draws[0].name} in context"
        if len(draws) > 1:
            # Draws differ by more than their rows, so their mean has no interval over rows.
            name += f", mean of {len(draws)} draws ({min(scores):.3f} to {max(scores):.3f})"
        ends = (draws[0].low, draws[0].high) if len(draws) == 1 else (None, None)
        lines_of_table.append(Line(name=name, score=sum(scores) / len(scores), low=ends[0], high=ends[1]))
    return lines_of_table


def _verdict(
    setting: Setting,
    comparison: "Comparison | None",
    untrained: Sequence[Line],
    answered: "Answered | None",
) -> tuple[Verdict, str]:
    line = _of(setting.best, comparison)
    if line is not None and comparison is not None:
        reference = _reference(comparison.reference)
        where = f"on the same {comparison.rows:,} test rows"
        return _judged(line.difference, *line.difference_interval, f"the prompt {line.name!r}", reference, where)
    n = setting.numbers["n"] - setting.numbers["dropped"]
    reference_line = next((line for name in REFERENCES for line in untrained if line.name == name), None)
    if n >= ENOUGH_SEEDS and reference_line is not None:
        ends = [setting.numbers[end] - reference_line.score for end in ("low", "high")]
        difference = setting.numbers["mean"] - reference_line.score
        what = f"the mean of {n} seeds of {setting.name!r}"
        return _judged(difference, ends[0], ends[1], what, reference_line.name, "over seeds")
    if answered is not None and answered.gain is not None:
        gain = answered.gain
        what, where = f"the prompt {answered.label!r}", f"on the same {gain.rows:,} test rows"
        return _judged(gain.difference, gain.low, gain.high, what, _reference(gain.over), where)
    seeds = "one seed is" if n == 1 else f"{n} seeds are"
    return "unknown", (
        f"Whether the gain is significant is not known: {seeds} too few to judge by, and no answers to the same rows "
        "are kept. Train with --with-frozen, or give this report --rows."
    )


def _reference(name: str) -> str:
    return WORDS.get(name, name)


def _judged(difference: float, low: float, high: float, what: str, reference: str, where: str) -> tuple[Verdict, str]:
    gain = f"{what} scores {abs(difference):.3f} {'more' if difference >= 0 else 'less'} than “{reference}” {where}"
    ends = f"of the difference, {low:+.3f} to {high:+.3f}"
    if low > 0:
        return "better", f"The gain is significant: {gain} (95 % interval {ends})."
    if high < 0:
        return "worse", f"The prompt is significantly worse: {gain} (95 % interval {ends})."
    return "not shown", f"A gain is not shown: {gain}, and 0 lies within the 95 % interval {ends}."
