"""What other studies found and the claims use: learning rates of the confirmation, scores of the stability study."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DamagedFile
from ._results import Results

PARTS = ("screen", "confirm", "real")


def take_evidence(results: Results, folder: "Path | str") -> None:
    """Copy what is there into the results, so that the page follows from one file; what is absent is left out.

    A learning rate that the results have already stays: runs were made with it.

    Args:
        results: changed in place.
        folder: of `stability_<part>.json` and `confirm.json`.

    Raises:
        DamagedFile: a file that holds something else.
    """
    folder = Path(folder)
    parts = {part: _scores(folder / f"stability_{part}.json") for part in PARTS}
    if any(parts.values()):
        results.evidence["stability"] = {part: scores for part, scores in parts.items() if scores}
    path = folder / "confirm.json"
    rates = _read(path).get("rates", {}).get(results.design.model, {})
    for method, found in rates.items():
        try:
            lr, edge, steps = found["chosen"], found["edge"], found["steps"]
        except (KeyError, TypeError) as error:
            raise _damaged(path) from error
        if lr is not None and steps == results.design.steps and method not in results.rates:
            results.rates[method] = {"lr": lr, "source": "confirmation study", "edge": bool(edge), "trials": {}}


def _scores(path: Path) -> dict[str, Any]:
    """Task -> setting -> chance, and score by seed; sorted, as they are when they are read back."""
    found: dict[str, Any] = {}
    try:
        for task, settings in sorted(_read(path).items()):
            for name, seeds in sorted(settings.items()):
                chances = {record["majority"] for record in seeds.values()}
                if len(chances) > 1:
                    raise _damaged(path)
                scores = {seed: record["score"] for seed, record in seeds.items()}
                found.setdefault(task, {})[name] = {"majority": next(iter(chances), None), "scores": scores}
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error
    return found


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
