"""Finished runs by what was varied: any setting (EPT, figures 5, 9 and 12), and the learning rate (figure 8)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import BadInput, UnknownName
from ...prompts.methods import METHODS
from ...tasks import TaskNames
from ...training import read_plan, read_results
from ..subjects import chosen_names
from ._base import NO_MODEL, NO_ROWS, Analysis, Values
from ._bench import Bench
from ._recorded import flat_settings

Cell = Mapping[str, Any]
# Scores are differences only between runs of the same.
_ASKED = ("task", "model")


def spread(scores: Sequence[float]) -> dict[str, Any]:
    """The number of scores, their mean, standard deviation (n - 1), lowest and highest."""
    mean = sum(scores) / len(scores)
    squares = sum((score - mean) ** 2 for score in scores)
    deviation = math.sqrt(squares / (len(scores) - 1)) if len(scores) > 1 else None
    return {"n": len(scores), "mean": mean, "std": deviation, "lowest": min(scores), "highest": max(scores)}


def _results(bench: Bench) -> Iterator[tuple[dict[str, Any], float | None]]:
    """The settings of each chosen prompt, flat, and its test score; None where it was dropped or is not finished."""
    plans = {path: read_plan(path) for path in map(Path, bench.paths)}
    names = TaskNames([*(plan.task for plan in plans.values()), *(run.task for run in bench.recorded)])
    for path, plan in plans.items():
        chosen = chosen_names(path, plan, bench.prompts)
        results = {result.prompt: result for result in read_results(path)}
        for name, prompt in zip(plan.prompt_names(), plan.prompts, strict=True):
            if name in chosen:
                result = results.get(name)
                of_run = {"task": names.of(plan.task), "model": plan.model.name, "lr": result and result.lr}
                score = result.metrics.get("test", {}).get("score") if result else None
                yield flat_settings(plan.settings, prompt, **of_run), score
    for run in bench.recorded:
        yield {**run.settings, "task": names.of(run.task)}, run.score


def _scored(bench: Bench) -> tuple[list[tuple[dict[str, Any], float]], int]:
    """The settings and the score of each run that has one, and how many have none."""
    results = list(_results(bench))
    scored = [(settings, score) for settings, score in results if score is not None]
    if not scored:
        raise BadInput("none of the runs has a test score; train them to their end, or anew where they were dropped")
    return scored, len(results) - len(scored)


def _keys(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for settings in runs for key in settings))


def _varied(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that are not the same for all of some runs."""
    return [key for key in _keys(runs) if len({str(settings.get(key)) for settings in runs}) > 1]


def _varied_beside(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that are not the same for all runs of one task and model."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for settings in runs:
        groups.setdefault(tuple(settings[name] for name in _ASKED), []).append(settings)
    return list(dict.fromkeys(key for members in groups.values() for key in _varied(members)))


def compute_ablation(bench: Bench) -> Values:
    """The scores of each value of the key `by`, or of the first setting that varies between the runs."""
    scored, without = _scored(bench)
    every = _keys([settings for settings, _ in scored])
    varied = _varied([settings for settings, _ in scored])
    key = bench.by or next(iter(varied), None)
    if key not in every and f"options.{key}" in every:
        # On the command line an option of a method has no such prefix.
        key = f"options.{key}"
    if key is None:
        raise BadInput("the runs differ in nothing but their seeds; give runs of several settings")
    if key not in every:
        methods = {settings["method"] for settings, _ in scored}
        if key in {"prompt_length"}.union(*(METHODS[method].defaults for method in methods)):
            raise BadInput(f"--by={key!r}: every run has the default of its method; give runs of several values")
        raise UnknownName("key of a run", key, every)
    groups: dict[str, list[float]] = {}
    for settings, score in scored:
        groups.setdefault(str(settings.get(key)), []).append(score)
    others = [name for name in varied if name != key]
    cells = [{"value": value, "scores": scores, **spread(scores)} for value, scores in groups.items()]
    return {"by": key, "also_varied": others, "without_score": without, "values": cells}


def draw_ablation(values: Values, figures: Any) -> Any:
    """A column for each value, a dot for each seed."""
    arms = {cell["value"]: cell["scores"] for cell in values["values"]}
    return figures.strip_figure(arms, means={c["value"]: (c["mean"], None, None) for c in values["values"]})


def rows_ablation(values: Values) -> list[dict[str, Any]]:
    """The mean and the spread of each value."""
    columns = ("n", "mean", "std", "lowest", "highest")
    return [{values["by"]: cell["value"], **{name: cell[name] for name in columns}} for cell in values["values"]]


def compute_rates(bench: Bench) -> Values:
    """The scores of each method at each learning rate; a method counts apart in each unit, task and model."""
    scores, without = _scored(bench)
    scored = [(settings, score) for settings, score in scores if settings["lr"] is not None]
    runs = [settings for settings, _ in scored]
    names = [*(key for key in _ASKED if key in _varied(runs)), "method", "units"]
    cells = _by_rate(scored, names)
    if max((len(cell["rates"]) for cell in cells), default=0) < 2:
        told = f" (without a test score: {without})" if without else ""
        raise BadInput(f"the runs have one learning rate for each method{told}; give runs of several (--lr, repeated)")
    others = [key for key in _varied_beside(runs) if key not in (*names, "lr")]
    return {"also_varied": others, "without_score": without, "methods": cells}


def _by_rate(scored: Sequence[tuple[Mapping[str, Any], float]], names: Sequence[str]) -> list[Cell]:
    groups: dict[tuple[str, ...], dict[float, list[float]]] = {}
    for settings, score in scored:
        by_rate = groups.setdefault(tuple(settings[name] for name in names), {})
        by_rate.setdefault(settings["lr"], []).append(score)
    return [
        {**dict(zip(names, group, strict=True)), "rates": sorted(by_rate),
         "scores": [spread(by_rate[rate]) for rate in sorted(by_rate)]}
        for group, by_rate in groups.items()
    ]  # fmt: skip


def _group(cell: Cell) -> dict[str, str]:
    """What tells the scores of a method from the others."""
    return {name: str(value) for name, value in cell.items() if name not in ("rates", "scores")}


def draw_rates(values: Values, figures: Any) -> Any:
    """Mean scores over the rates, the range over seeds as bars."""
    curves = {
        ", ".join(_group(cell).values()): (
            cell["rates"],
            [score["mean"] for score in cell["scores"]],
            [score["lowest"] for score in cell["scores"]],
            [score["highest"] for score in cell["scores"]],
        )
        for cell in values["methods"]
    }
    return figures.curve_figure(curves, x="learning rate", y="test score, range over seeds", log_x=True)


def rows_rates(values: Values) -> list[dict[str, Any]]:
    """The mean and the range of each method at each rate."""
    return [
        {**_group(cell), "rate": rate, **score}
        for cell in values["methods"]
        for rate, score in zip(cell["rates"], cell["scores"], strict=True)
    ]


def warning(values: Values) -> str | None:
    """That the compared runs differ in more than what they are compared by, and how many have no score."""
    told = []
    if also := values["also_varied"]:
        told.append(f"the runs differ in {', '.join(also)} too, so differences of scores may come from there")
    if without := values["without_score"]:
        told.append(f"runs that have no test score, being dropped or not finished, are left out: {without}")
    return "; ".join(told) or None


ABLATION = Analysis(
    "test scores by any setting that was varied (EPT, figures 5, 9, 12)",
    compute_ablation, draw_ablation, rows_ablation, reads_records=True, ignores=NO_ROWS | NO_MODEL,
    warning=warning,
)  # fmt: skip
RATES = Analysis(
    "test scores over the learning rate (EPT, figure 8)",
    compute_rates, draw_rates, rows_rates, reads_records=True, ignores=NO_ROWS | NO_MODEL, warning=warning,
)  # fmt: skip
