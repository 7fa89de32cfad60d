"""Tables of the results, from the results alone: methods, differences, tasks, conditions, rates, what was not run."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..metrics import is_stuck
from ..study import markdown
from ..study.statistics import bootstrap, holm, wilcoxon
from ._contenders import FULL, HEAD, REFERENCE
from ._design import Design, Part
from ._rates import mean_score
from ._results import Entry, Results, key_of
from ._study import missing

Row = dict[str, Any]
# (task, seed) -> run, of one method.
Runs = Mapping[tuple[str, int], Entry]
NOTHING = "Nothing has been run yet."


def tables(results: Results, design: Design) -> dict[str, list[Row]]:
    """Title -> rows, for `markdown`; parts without a run have none.

    Scores are of the last step, on test rows. `std` is over seeds, pooled over tasks; `stuck` the share of runs that
    have not got half of the way from the majority class to the task's best prompt; differences are over pairs of runs
    of one task and seed, with the 95 % bootstrap interval of their mean and p of Wilcoxon's test after Holm's
    correction for the methods of the table.
    """
    found: dict[str, list[Row]] = {}
    for name, part in design.parts.items():
        for model in part.models:
            runs = _by_contender(results, name, part, model)
            if not runs:
                continue
            title = f"{name}: {model}, {part.steps} steps"
            found[title] = _methods(runs, reference_of(runs), {one: results.chosen(model, one) for one in runs})
            found[f"{title}, by task: mean ± standard deviation (runs)"] = _by_task(runs, part)
            found[f"{title}, by task: against {reference_of(runs)}"] = _task_differences(runs, part)
    found["One condition against another, same task, method and seed"] = _conditions(results, design)
    found["Learning rates, by validation score"] = _rates(results)
    found["Not run"] = _not_run(results, design)
    return {title: rows for title, rows in found.items() if rows}


def text(results: Results, design: Design) -> str:
    """All tables as Markdown, or that there is nothing."""
    if not results.cells and not results.rates:
        return f"{NOTHING}\n"
    parts = [f"### {title}\n\n{markdown(rows)}" for title, rows in tables(results, design).items()]
    return "\n\n".join([*parts, *_remarks(results)]) + "\n"


def reference_of(runs: Mapping[str, Runs]) -> str:
    """What a table's methods are compared with: the head alone where there is one, else prompt tuning."""
    return HEAD if HEAD in runs else REFERENCE


def paired(ours: Runs, theirs: Runs) -> Row:
    """The differences of scores over the tasks and seeds that both have; a run without a score is in no pair."""
    pairs = [(run["score"], theirs[key]["score"]) for key, run in ours.items() if key in theirs]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    low, high = bootstrap(differences) or (None, None)
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return {
        "pairs": len(differences),
        "difference": statistics.fmean(differences) if differences else None,
        "low": low,
        "high": high,
        "wins / ties / losses": f"{wins} / {len(differences) - wins - losses} / {losses}" if differences else None,
        "p": wilcoxon(differences),
    }


def _by_contender(results: Results, name: str, part: Part, model: str) -> dict[str, Runs]:
    """Method -> its runs in a part; methods without any left out."""
    found = {}
    for one in part.contenders:
        cells = {task: results.cells.get(key_of(name, model, task, one), {}) for task in part.tasks}
        runs = {(task, int(seed)): run for task, cell in cells.items() for seed, run in cell.items()}
        if runs:
            found[one] = runs
    return found


def _methods(runs: Mapping[str, Runs], reference: str, rates: Mapping[str, float | None]) -> list[Row]:
    against = {one: paired(mine, runs.get(reference, {})) for one, mine in runs.items() if one != reference}
    corrected = dict(zip(against, holm([row["p"] for row in against.values()]), strict=True))
    ceilings = _ceilings(runs)
    rows = []
    for one, mine in runs.items():
        compared = against.get(one, dict.fromkeys(("pairs", "difference", "low", "high", "wins / ties / losses")))
        rows.append(
            {
                "method": one,
                "lr": rates[one],
                "runs": len(mine),
                "mean": _mean_of_tasks(mine),
                "std": _pooled(mine),
                "stuck": _stuck(mine, ceilings),
                "token norms": _norms(mine),
                **compared,
                "p": corrected.get(one),
            }
        )
    best = sorted(rows, key=lambda row: -(row["mean"] if row["mean"] is not None else -1))
    return best


def _by_task(runs: Mapping[str, Runs], part: Part) -> list[Row]:
    return [
        {"method": one, **{task: _spread(_scores(mine, task)) for task in _tasks(runs, part)}}
        for one, mine in runs.items()
    ]


def _task_differences(runs: Mapping[str, Runs], part: Part) -> list[Row]:
    reference = reference_of(runs)
    rows = []
    for one, mine in runs.items():
        found = {
            task: paired(_of_task(mine, task), _of_task(runs.get(reference, {}), task)) for task in _tasks(runs, part)
        }
        if one != reference:
            rows.append({"method": one, **{task: _difference(row) for task, row in found.items()}})
    return rows


def _conditions(results: Results, design: Design) -> list[Row]:
    """Pairs of conditions that differ in one thing, by method."""
    rows = []
    for title, ours, theirs in _contrasts(results, design):
        if (row := paired(ours, theirs))["pairs"]:
            rows.append({"condition": title, **row})
    return rows


def _contrasts(results: Results, design: Design) -> Iterator[tuple[str, Runs, Runs]]:
    """(what, runs, runs to hold them against)."""
    parts = {
        (name, model): _by_contender(results, name, part, model)
        for name, part in design.parts.items()
        for model in part.models
    }
    for (name, model), runs in parts.items():
        for one in runs:
            if "@" in one and (other := one.partition("@")[0]) in runs:
                yield f"{one.partition('@')[2]} against 32: {other}, {name}, {model}", runs[one], runs[other]
        if "ept-star-guard" in runs and "ept-star" in runs:
            yield f"norm guard against none: {name}", runs["ept-star-guard"], runs["ept-star"]
    core = next((runs for (name, _), runs in parts.items() if name == "core"), {})
    said = {
        "dropout": "the frozen model's dropout against none",
        "size": "lab-t5 against lab-t5-small",
        "long": "1000 steps against 250",
        "longest": "4000 steps against 250",
    }
    for (name, _), runs in parts.items():
        for one in runs:
            if name in said and one in core:
                yield f"{said[name]}: {one}", runs[one], core[one]


def _rates(results: Results) -> list[Row]:
    rows = []
    for model, by_method in results.rates.items():
        for one, found in by_method.items():
            tried = sorted(found["trials"].items(), key=lambda item: float(item[0]))
            scores = [f"{float(rate):g}: {mean_score(by_task):.3f}" for rate, by_task in tried]
            chosen = "" if found["chosen"] is None else f"{found['chosen']:g}{' (edge)' if found['edge'] else ''}"
            rows.append({"model": model, "method": one, "chosen": chosen, "tried": ", ".join(scores)})
    return rows


def _not_run(results: Results, design: Design) -> list[Row]:
    rows = []
    for name, part in design.parts.items():
        for model in part.models:
            for task in part.tasks:
                left = missing(results, name, part, model, task, part.seeds)
                counts = {one: sum(other == one for other, _ in left) for one in part.contenders}
                planned = len(part.seeds) * len(part.contenders)
                if left:
                    none = [one for one, count in counts.items() if count == len(part.seeds)]
                    without = "every method" if len(none) == len(counts) else ", ".join(none)
                    done = f"{planned - len(left)} of {planned}"
                    rows.append({"part": name, "model": model, "task": task, "runs": done, "no run of": without})
    return rows


def _remarks(results: Results) -> Iterator[str]:
    """What a reader has to know of these runs."""
    dropped = [f"{key}, seed {s}" for key, cell in results.cells.items() for s, run in cell.items()
               if run["score"] is None]  # fmt: skip
    if dropped:
        yield f"Without a score, and in no mean: {'; '.join(dropped)}."
    for key, cell in results.cells.items():
        if len({run["lr"] for run in cell.values()}) > 1:
            yield f"{key} has runs of several learning rates."


def _tasks(runs: Mapping[str, Runs], part: Part) -> list[str]:
    there = {task for mine in runs.values() for task, _ in mine}
    return [task for task in part.tasks if task in there]


def _of_task(runs: Runs, task: str) -> Runs:
    return {key: run for key, run in runs.items() if key[0] == task}


def _scores(runs: Runs, task: str) -> list[float]:
    return [run["score"] for run in _of_task(runs, task).values() if run["score"] is not None]


def _mean_of_tasks(runs: Runs) -> float | None:
    """The mean over tasks of means over seeds."""
    means = [statistics.fmean(scores) for task in {t: 0 for t, _ in runs} if (scores := _scores(runs, task))]
    return statistics.fmean(means) if means else None


def _pooled(runs: Runs) -> float | None:
    """The root mean square over tasks of standard deviations over seeds."""
    spread = [statistics.variance(scores) for task in {t: 0 for t, _ in runs} if len(scores := _scores(runs, task)) > 1]
    return statistics.fmean(spread) ** 0.5 if spread else None


def _ceilings(runs: Mapping[str, Runs]) -> dict[str, float]:
    """The best score of a prompt on each task; what fine-tuning reaches is not asked of it."""
    best: dict[str, float] = {}
    for one, mine in runs.items():
        for (task, _), run in mine.items():
            if one != FULL and run["score"] is not None:
                best[task] = max(run["score"], best.get(task, run["score"]))
    return best


def _stuck(runs: Runs, ceilings: Mapping[str, float]) -> float | None:
    """The share of runs that are stuck; one without a score is."""
    verdicts = [
        run["score"] is None or is_stuck(run["score"], run["majority"] or 0.0, ceilings[task])
        for (task, _), run in runs.items()
        if task in ceilings
    ]
    return statistics.fmean(verdicts) if verdicts else None


def _norms(runs: Runs) -> str:
    norms = sorted(run["norm"] for run in runs.values() if run["norm"] is not None)
    return f"{statistics.median(norms):.2g} ({norms[0]:.2g} .. {norms[-1]:.2g})" if norms else ""


def _spread(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    deviation = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.3f}{deviation} ({len(scores)})"


def _difference(row: Row) -> str:
    if row["difference"] is None:
        return ""
    interval = "" if row["low"] is None else f" ({row['low']:+.3f} .. {row['high']:+.3f})"
    return f"{row['difference']:+.3f}{interval}"
