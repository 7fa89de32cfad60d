"""Each method's learning rate on a model: the best of a grid that grows until the best is inside it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..common.rates import best_rate, is_at_edge, neighbour, rates_to_try
from .candidates import CANDIDATES
from .design import Design, Frozen, Part
from .results import Results, change_results, read_results
from .runs import Place, RunRequest, measured

# Rate as text -> task -> seed -> [validation score, loss].
Trials = Mapping[str, Mapping[str, Mapping[str, Sequence[float | None]]]]


def choose_rates(design: Design, model: str, candidates: Sequence[str], place: Place) -> Results:
    """Choose what is not chosen yet; the results after it.

    The rate with the highest mean validation score over tasks and seeds, a run without a score counting as 0; among
    equals the one with the lower training loss. While it is the lowest or highest tried, its neighbour, about three
    times as far, is tried too, up to `design.tried` rates in all: if the best is still an edge, the results say so.

    Args:
        design: of the study.
        model: name in it.
        candidates: names in CANDIDATES.
        place: where runs and results are.

    Raises:
        SoftPromptError: as in `run_all`.
    """
    frozen = design.models[model]
    results = read_results(place.results)
    while open_ones := [candidate for candidate in candidates if results.chosen(model, candidate) is None]:
        tried = {candidate: _trials(results, model, candidate) for candidate in open_ones}
        untried = {
            candidate: _next(whole(tried[candidate], frozen), frozen, candidate, design) for candidate in open_ones
        }
        for task in frozen.tasks:
            part = Part(models=(model,), tasks=(task,), candidates=(), seeds=frozen.seeds, steps=frozen.steps)
            wanted = [
                RunRequest(task=task, candidate=candidate, rate=rate, seed=seed, head_rate=head_rate(results, model))
                for candidate, rates in untried.items()
                for rate in rates
                for seed in frozen.seeds
                if str(seed) not in tried[candidate].get(repr(rate), {}).get(task, {})
            ]
            if wanted:
                runs = measured(model, frozen, part, wanted, place, trial=True)
                _keep(place, model, frozen.steps, wanted, runs)
        results = _decide(place, design, model, open_ones)
    return results


def next_rates(trials: Trials, start: Sequence[float], most: int) -> list[float]:
    """The rates still to be tried: of the first grid, or about three times as far where the best is at an edge."""
    return rates_to_try(worth(trials), start, lambda best, way: neighbour(best, way) if len(trials) < most else None)


def whole(trials: Trials, frozen: Frozen) -> Trials:
    """The rates that were tried on every task with every seed; what a stopped study left of another is no mean."""
    return {
        rate: by_task
        for rate, by_task in trials.items()
        if all(str(seed) in by_task.get(task, {}) for task in frozen.tasks for seed in frozen.seeds)
    }


def worth(trials: Trials) -> dict[float, tuple[float, float]]:
    """What each rate is worth: the higher mean validation score, and among equals the lower loss."""
    return {float(rate): _worth(by_task) for rate, by_task in trials.items()}


def mean_score(by_task: Mapping[str, Mapping[str, Sequence[float | None]]]) -> float:
    """The mean validation score of a rate over tasks and seeds; no score counts as 0."""
    scores = [run[0] or 0.0 for by_seed in by_task.values() for run in by_seed.values()]
    return sum(scores) / len(scores)


def head_rate(results: Results, model: str) -> float | None:
    """The rate of a linear head on a model: that of the head alone, so that no prompt has a better or worse head."""
    return results.chosen(model, "head-only")


def _worth(by_task: Mapping[str, Mapping[str, Sequence[float | None]]]) -> tuple[float, float]:
    losses = [math.inf if run[1] is None else run[1] for by_seed in by_task.values() for run in by_seed.values()]
    return mean_score(by_task), -sum(losses) / len(losses)


def _next(trials: Trials, frozen: Frozen, candidate: str, design: Design) -> list[float]:
    return next_rates(trials, frozen.first_rates(candidate), frozen.most_rates(candidate, design.tried))


def _trials(results: Results, model: str, candidate: str) -> Trials:
    return results.rates.get(model, {}).get(candidate, {}).get("trials", {})


def _keep(
    place: Place, model: str, steps: int, wanted: Sequence[RunRequest], runs: Sequence[Mapping[str, Any]]
) -> None:
    def change(cells: dict[str, Any], rates: dict[str, Any]) -> None:
        of_model = rates.setdefault(model, {})
        for request, run in zip(wanted, runs, strict=True):
            search = of_model.setdefault(
                request.candidate, {"chosen": None, "edge": None, "steps": steps, "trials": {}}
            )
            by_task = search["trials"].setdefault(repr(request.rate), {})
            by_task.setdefault(request.task, {})[str(request.seed)] = [run["validation"], run["loss"]]

    change_results(place.results, place.store, change)


def _decide(place: Place, design: Design, model: str, candidates: Sequence[str]) -> Results:
    """Choose for the methods whose grid needs not grow any more."""
    frozen = design.models[model]

    def change(cells: dict[str, Any], rates: dict[str, Any]) -> None:
        for candidate in candidates:
            trials = whole(rates[model][candidate]["trials"], frozen)
            if _next(trials, frozen, candidate, design):
                continue
            by_rate = worth(trials)
            edge = is_at_edge(by_rate) and not CANDIDATES[candidate].is_fixed
            rates[model][candidate] |= {"chosen": best_rate(by_rate), "edge": edge}

    return change_results(place.results, place.store, change)
