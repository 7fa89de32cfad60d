"""Results of other studies that the claims use: scores and rates of the confirmation, scores of the stability study."""

from pathlib import Path
from typing import Any

from softprompt.errors import DamagedFile

from ..stability import study as stability
from ..which_method import results as which_method
from .real_model import own_runs, real_evidence
from .results import Results, score

PARTS = ("screen", "confirm", "real")
# The methods of the confirmation study that a claim compares.
COMPARED = ("prompt-tuning", "ept", "ept-star", "head-only")


def take_evidence(results: Results, folder: "Path | str") -> None:
    """Copy the results of other studies into these, so that the page follows from one file. Absent files are left out.

    A learning rate that the results already have is kept, because runs were made with it.

    Args:
        results: changed in place.
        folder: of `stability_<part>.json`, `confirm.json`, and the results of the real model's study and own runs.

    Raises:
        DamagedFile: a file that holds something else.
    """
    parts = {part: _scores(part, folder) for part in PARTS}
    if any(parts.values()):
        results.evidence["stability"] = {part: scores for part, scores in sorted(parts.items()) if scores}
    confirmed = which_method.read_results(Path(folder) / "confirm.json")
    if scores := _confirmed(confirmed):
        results.evidence["confirmation"] = scores
    if scores := real_evidence(Path(folder)):
        results.evidence["real_lm"] = scores
    if values := own_runs(Path(folder)):
        results.evidence["real_claims"] = values
    for method, search in confirmed.rates.get(results.design.model, {}).items():
        lr = search["chosen"]
        if lr is not None and search["steps"] == results.design.steps and method not in results.rates:
            record = {"lr": lr, "source": "confirmation study", "edge": bool(search["edge"]), "trials": {}}
            results.rates[method] = record


def _scores(part: str, folder: "Path | str") -> dict[str, Any]:
    """Task -> setting -> chance, and score by seed; sorted, as they are when they are read back."""
    by_task: dict[str, Any] = {}
    for task, settings in sorted(stability.read(part, folder).items()):
        for name, seeds in sorted(settings.items()):
            chances = {record["majority"] for record in seeds.values()}
            if len(chances) > 1:
                raise DamagedFile(
                    f"{stability.path_of(part, folder)}: runs of {task}, {name} are on different test rows"
                )
            scores = {seed: record["score"] for seed, record in seeds.items()}
            by_task.setdefault(task, {})[name] = {"majority": next(iter(chances), None), "scores": scores}
    return by_task


def _confirmed(confirmed: which_method.Results) -> dict[str, Any]:
    """Part -> model -> steps, and scores by task, method and seed, of the methods in COMPARED."""
    by_part: dict[str, Any] = {}
    for key, cell in sorted(confirmed.cells.items()):
        part, model, task, method = which_method.of_key(key)
        if method not in COMPARED or not cell:
            continue
        group = by_part.setdefault(part, {}).setdefault(model, {"steps": 0, "tasks": {}})
        group["steps"] = max(run["steps"] for run in cell.values())
        scores = {seed: score(run) for seed, run in sorted(cell.items(), key=lambda item: int(item[0]))}
        group["tasks"].setdefault(task, {})[method] = scores
    return by_part
