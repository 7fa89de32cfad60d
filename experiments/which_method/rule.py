"""Which method is the default, by the rule that the plan of the study set before its first run (PLAN.md)."""

from collections.abc import Iterator, Mapping

from softprompt.prompts.methods import METHODS

from .candidates import CANDIDATES, REFERENCE
from .design import Design
from .numbers import Row, by_candidate, ceilings_of, mean_of_tasks, of_task, paired, reference_of, stuck_share, told
from .results import Results

# What counts as a difference: an interval without 0, and at least so much.
LEAST = 0.01
CORE = "core"
IN_UNITS = f"{REFERENCE}-rms"
# Part -> the model in whose runs a candidate must not be worse; None is the part's only one.
CHECKED: Mapping[str, str | None] = {"fewshot": None, "long": None, "size": None, "kinds": "lab-gpt", "real": None}


def differs(row: Row) -> bool:
    """Whether paired runs are said to differ: the interval of their mean difference is without 0, and it is 0.01."""
    if row["low"] is None:
        return False
    return (row["low"] > 0 or row["high"] < 0) and abs(row["difference"]) >= LEAST


def default_method(results: Results, design: Design) -> tuple[str | None, list[Row]]:
    """The method that the rule makes the default, and the steps to it; None while the core has no runs.

    The candidate is the prompt with the highest mean over the core tasks at the T5-like scale; of those that do not
    differ from it, the one with the smallest stuck share, then with the fewest trained parameters. It falls where
    another part has it below prompt tuning (real: below the head alone) with an interval wholly below 0. Then prompt
    tuning is the default: in units of the embeddings, unless raw numbers are better.

    Args:
        results: of the study.
        design: of the study.
    """
    part = design.parts.get(CORE)
    runs = {} if part is None else by_candidate(results, CORE, part, part.models[0])
    eligible = {method: mine for method, mine in runs.items() if _may_be_default(method)}
    means = {method: mean for method, mine in eligible.items() if (mean := mean_of_tasks(mine)) is not None}
    if REFERENCE not in means:
        return None, []
    best = max(means, key=lambda method: means[method])
    against = {method: paired(eligible[method], eligible[best]) for method in means}
    level = [method for method in means if method == best or not differs(against[method])]
    ceilings = ceilings_of(runs)
    stuck = {method: stuck_share(eligible[method], ceilings) or 0.0 for method in level}
    candidate = min(level, key=lambda method: (stuck[method], _trained(method)))
    rows = [
        _row("highest mean", best, f"{means[best]:.3f} over {len({task for task, _ in eligible[best]})} tasks"),
        _row("not shown to differ from it", ", ".join(level), ""),
        _row("fewest stuck, then fewest trained", candidate, f"stuck {stuck[candidate]:.3f}"),
    ]
    falls = False
    for name, verdict, numbers in _checks(results, design, candidate):
        falls |= verdict == "worse"
        rows.append(_row(name, verdict, numbers))
    if falls:
        units = paired(eligible.get(IN_UNITS, {}), eligible[REFERENCE])
        raw_is_better = not units["pairs"] or (differs(units) and units["difference"] < 0)
        candidate = REFERENCE if raw_is_better else IN_UNITS
    rows.append(_row("default", candidate, "prompt tuning, because the candidate falls" if falls else ""))
    return candidate, rows


def losses(results: Results, design: Design, candidate: str) -> Iterator[Row]:
    """Where a method is said to be worse than prompt tuning, or than the head alone: task by task, over all parts."""
    for name, part in design.parts.items():
        for model in part.models:
            runs = by_candidate(results, name, part, model)
            reference = reference_of(runs)
            if candidate == reference or candidate not in runs or reference not in runs:
                continue
            for task in part.tasks:
                row = paired(of_task(runs[candidate], task), of_task(runs[reference], task))
                if differs(row) and row["difference"] < 0:
                    yield {"part": name, "model": model, "task": task, "against": reference, **row}


def _may_be_default(method: str) -> bool:
    """A prompt, at the T5-like scale and its own learning rate."""
    return CANDIDATES[method].kind == "prompt" and "@" not in method and not CANDIDATES[method].is_fixed


def _checks(results: Results, design: Design, candidate: str) -> Iterator[tuple[str, str, str]]:
    """(part, verdict, numbers) of each part in which the candidate must not be worse."""
    for name, only in CHECKED.items():
        if name not in design.parts:
            continue
        part = design.parts[name]
        for model in part.models:
            if only not in (None, model):
                continue
            runs = by_candidate(results, name, part, model)
            reference = reference_of(part.candidates)
            row = paired(runs.get(candidate, {}), runs.get(reference, {}))
            title = f"{name}: {model}, against {reference}"
            if candidate == reference:
                yield title, "the reference itself", ""
            elif row["low"] is None:
                yield title, "not run" if candidate not in runs else "one pair", ""
            else:
                yield title, "worse" if row["high"] < 0 else "not worse", told(row)


def _trained(method: str) -> int:
    """Trained numbers at width 128, the lab's: the order is the same at every width."""
    return METHODS[CANDIDATES[method].method].trainable(128)


def _row(step: str, found: str, numbers: str) -> Row:
    return {"step": step, "found": found, "numbers": numbers}
