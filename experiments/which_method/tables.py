"""Tables of the results, from the results alone: methods, differences, tasks, conditions, rates, what was not run."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from softprompt.study import markdown
from softprompt.study.statistics import holm

from .design import Design, Part
from .numbers import (
    Row,
    Runs,
    by_candidate,
    ceilings_of,
    mean_of_tasks,
    of_task,
    paired,
    pooled,
    reference_of,
    scores_of,
    stuck_share,
    told,
)
from .rates import mean_score
from .results import Results
from .rule import CORE, default_method, losses
from .study import missing

NOTHING = "Nothing has been run yet."
BY_TASK = ", by task: "
RATES, LEFT = "Learning rates, by validation score", "Not run"
# How the title of the page's table begins: the largest part's. The file of all tables also has these columns of it.
SUMMARY = f"{CORE}: "
ONLY_IN_DETAIL = ("runs", "std", "pairs", "wins / ties / losses", "p")
BEGIN = "<!-- tables: python -m experiments.which_method --table --page -->"


def tables(results: Results, design: Design) -> dict[str, list[Row]]:
    """Title -> rows, for `markdown`; parts without a run have none.

    Scores are of the last step, on test rows. `std` is over seeds, pooled over tasks; `stuck` the share of runs that
    have not got half of the way from the majority class to the task's best prompt; differences are over pairs of runs
    of one task and seed, with the 95 % bootstrap interval of their mean and p of Wilcoxon's test after Holm's
    correction for the methods of the table.
    """
    default, steps = default_method(results, design)
    by_title: dict[str, list[Row]] = {"The default method, by the plan's rule": steps}
    if default is not None:
        by_title[f"Where {default} loses, by task"] = list(losses(results, design, default))
    for name, part in design.parts.items():
        for model in part.models:
            runs = by_candidate(results, name, part, model)
            if not runs:
                continue
            title = f"{name}: {model}, {part.steps} steps"
            by_title[title] = _methods(
                runs, reference_of(runs), {method: results.chosen(model, method) for method in runs}
            )
            by_title[f"{title}{BY_TASK}mean ± standard deviation (runs)"] = _by_task(runs, part)
            by_title[f"{title}{BY_TASK}against {reference_of(runs)}"] = _task_differences(runs, part)
    by_title["One condition against another, same task, method and seed"] = _conditions(results, design)
    by_title[RATES] = _rates(results)
    by_title[LEFT] = _not_run(results, design)
    return {title: rows for title, rows in by_title.items() if rows}


def text(results: Results, design: Design, *, details: bool = True) -> str:
    """The tables as Markdown, or a sentence that nothing has been run.

    Args:
        results: of the study.
        design: what was planned.
        details: also the other parts, tables by task, the learning rates that were tried, and what was not run.
    """
    if not results.cells and not results.rates:
        return f"{NOTHING}\n"
    chosen = {
        title: rows
        for title, rows in tables(results, design).items()
        if details or (title.startswith(SUMMARY) and (BY_TASK not in title))
    }
    if not details:
        chosen = {title: _short(rows) for title, rows in chosen.items()}
    parts = [f"### {title}\n\n{markdown(rows)}" for title, rows in chosen.items()]
    return "\n\n".join([*parts, *_remarks(results)]) + "\n"


def _short(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in ONLY_IN_DETAIL} for row in rows]


def _methods(runs: Mapping[str, Runs], reference: str, rates: Mapping[str, float | None]) -> list[Row]:
    against = {method: paired(mine, runs.get(reference, {})) for method, mine in runs.items() if method != reference}
    corrected = dict(zip(against, holm([row["p"] for row in against.values()]), strict=True))
    ceilings = ceilings_of(runs)
    rows = []
    for method, mine in runs.items():
        compared = against.get(method, dict.fromkeys(("pairs", "difference", "low", "high", "wins / ties / losses")))
        rows.append(
            {
                "method": method,
                "lr": rates[method],
                "runs": len(mine),
                "mean": mean_of_tasks(mine),
                "std": pooled(mine),
                "stuck": stuck_share(mine, ceilings),
                "token norms": _norms(mine),
                **compared,
                "p": corrected.get(method),
            }
        )
    best = sorted(rows, key=lambda row: -(row["mean"] if row["mean"] is not None else -1))
    return best


def _by_task(runs: Mapping[str, Runs], part: Part) -> list[Row]:
    return [
        {"method": method, **{task: _spread(scores_of(mine, task)) for task in _tasks(runs, part)}}
        for method, mine in runs.items()
    ]


def _task_differences(runs: Mapping[str, Runs], part: Part) -> list[Row]:
    reference = reference_of(runs)
    rows = []
    for method, mine in runs.items():
        differences = {
            task: paired(of_task(mine, task), of_task(runs.get(reference, {}), task)) for task in _tasks(runs, part)
        }
        if method != reference:
            rows.append({"method": method, **{task: told(row) for task, row in differences.items()}})
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
        (name, model): by_candidate(results, name, part, model)
        for name, part in design.parts.items()
        for model in part.models
    }
    for (name, model), runs in parts.items():
        for method in runs:
            if "@" in method and (other := method.partition("@")[0]) in runs:
                yield f"{method.partition('@')[2]} against 32: {other}, {name}, {model}", runs[method], runs[other]
        if "ept-star-guard" in runs and "ept-star" in runs:
            yield f"largest norm against none: {name}", runs["ept-star-guard"], runs["ept-star"]
    core = next((runs for (name, _), runs in parts.items() if name == "core"), {})
    said = {
        "dropout": "the frozen model's dropout against none",
        "size": "lab-t5 against lab-t5-small",
        "long": "1000 steps against 250",
        "longest": "4000 steps against 250",
    }
    for (name, _), runs in parts.items():
        for method in runs:
            if name in said and method in core:
                yield f"{said[name]}: {method}", runs[method], core[method]


def _rates(results: Results) -> list[Row]:
    rows = []
    for model, by_method in results.rates.items():
        for method, search in by_method.items():
            tried = sorted(search["trials"].items(), key=lambda item: float(item[0]))
            scores = [f"{float(rate):g}: {mean_score(by_task):.3f}" for rate, by_task in tried]
            chosen = "" if search["chosen"] is None else f"{search['chosen']:g}{' (edge)' if search['edge'] else ''}"
            rows.append({"model": model, "method": method, "chosen": chosen, "tried": ", ".join(scores)})
    return rows


def _not_run(results: Results, design: Design) -> list[Row]:
    rows = []
    for name, part in design.parts.items():
        for model in part.models:
            for task in part.tasks:
                left = missing(results, name, part, model, task, part.seeds)
                counts = {method: sum(other == method for other, _ in left) for method in part.candidates}
                planned = len(part.seeds) * len(part.candidates)
                if left:
                    none = [method for method, count in counts.items() if count == len(part.seeds)]
                    without = "every method" if len(none) == len(counts) else ", ".join(none)
                    done = f"{planned - len(left)} of {planned}"
                    rows.append({"part": name, "model": model, "task": task, "runs": done, "no run of": without})
    return rows


def _remarks(results: Results) -> Iterator[str]:
    """Remarks about these runs."""
    dropped = [f"{key}, seed {s}" for key, cell in results.cells.items() for s, run in cell.items()
               if run["score"] is None]  # fmt: skip
    if dropped:
        yield f"Without a score, and in no mean: {'; '.join(dropped)}."
    for key, cell in results.cells.items():
        if len({run["lr"] for run in cell.values()}) > 1:
            yield f"{key} has runs of several learning rates."


def _tasks(runs: Mapping[str, Runs], part: Part) -> list[str]:
    finished = {task for mine in runs.values() for task, _ in mine}
    return [task for task in part.tasks if task in finished]


def _norms(runs: Runs) -> str:
    norms = sorted(run["norm"] for run in runs.values() if run["norm"] is not None)
    return f"{statistics.median(norms):.2g} ({norms[0]:.2g} .. {norms[-1]:.2g})" if norms else ""


def _spread(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    deviation = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.3f}{deviation} ({len(scores)})"
