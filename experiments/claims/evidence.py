"""Results of other studies that the claims use: scores and rates of the confirmation, scores of the stability study."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softprompt.errors import DamagedFile

from ..which_method.results import of_key
from .results import Results

PARTS = ("screen", "confirm", "real")
# The methods of the confirmation study that a claim compares.
COMPARED = ("prompt-tuning", "ept", "ept-star", "head-only")


def take_evidence(results: Results, folder: "Path | str") -> None:
    """Copy the results of other studies into these, so that the page follows from one file. Absent files are left out.

    A learning rate that the results already have is kept, because runs were made with it.

    Args:
        results: changed in place.
        folder: of `stability_<part>.json` and `confirm.json`.

    Raises:
        DamagedFile: a file that holds something else.
    """
    folder = Path(folder)
    parts = {part: _scores(folder / f"stability_{part}.json") for part in PARTS}
    if any(parts.values()):
        results.evidence["stability"] = {part: scores for part, scores in sorted(parts.items()) if scores}
    path = folder / "confirm.json"
    confirmed = _read(path)
    if scores := _confirmed(path, confirmed):
        results.evidence["confirmation"] = scores
    rates = confirmed.get("rates", {}).get(results.design.model, {})
    for method, search in rates.items():
        try:
            lr, edge, steps = search["chosen"], search["edge"], search["steps"]
        except (KeyError, TypeError) as error:
            raise _damaged(path) from error
        if lr is not None and steps == results.design.steps and method not in results.rates:
            results.rates[method] = {"lr": lr, "source": "confirmation study", "edge": bool(edge), "trials": {}}


def _scores(path: Path) -> dict[str, Any]:
    """Task -> setting -> chance, and score by seed; sorted, as they are when they are read back."""
    by_task: dict[str, Any] = {}
    try:
        for task, settings in sorted(_read(path).items()):
            for name, seeds in sorted(settings.items()):
                chances = {record["majority"] for record in seeds.values()}
                if len(chances) > 1:
                    raise _damaged(path)
                scores = {seed: record["score"] for seed, record in seeds.items()}
                by_task.setdefault(task, {})[name] = {"majority": next(iter(chances), None), "scores": scores}
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error
    return by_task


def _confirmed(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Part -> model -> steps, and scores by task, method and seed, of the methods in COMPARED."""
    by_part: dict[str, Any] = {}
    try:
        for key, cell in sorted(values.get("cells", {}).items()):
            part, model, task, method = of_key(key)
            if method not in COMPARED or not cell:
                continue
            group = by_part.setdefault(part, {}).setdefault(model, {"steps": 0, "tasks": {}})
            group["steps"] = max(run["steps"] for run in cell.values())
            scores = {seed: _score_or_chance(run) for seed, run in sorted(cell.items(), key=lambda item: int(item[0]))}
            group["tasks"].setdefault(task, {})[method] = scores
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path) from error
    return by_part


def _score_or_chance(run: Mapping[str, Any]) -> float | None:
    """The test score; of a run that was dropped, that of always answering the most frequent class."""
    return run["score"] if run["score"] is not None else run["majority"]


def _read(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(values, Mapping):
        raise _damaged(path)
    return values


def _damaged(path: Path) -> DamagedFile:
    part = re.sub(r"^stability_|\.json$", "", path.name)
    return DamagedFile(f"{path} is not what the study wrote ({part}); restore it from a copy, or make it again")
