"""The same claims asked of a real language model: by the study of SmolLM2, and by runs of the claims' own on it."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.paired import Cell, differences
from ..real_lm.arms import ARMS
from ..real_lm.page import small_of
from ..real_lm.results import Folder
from ..real_lm.tables import REFERENCE, by_cell
from . import equal_steps, norms
from .check import Check, at_least
from .claim import Claim
from .design import Design
from .perturbation import compared, mean_check, spread_check
from .results import Results, read_results

# What `python -m experiments.claims --real` leaves.
FILE = "claims_smollm2.json"
MODEL = "SmolLM2"
NETWORKS = tuple(ARMS[name].label for name in ("p-tuning", "residual", "ept", "ept-star"))
SINGLE = tuple(ARMS[name].label for name in ("ept", "ept-star"))
TUNING = ARMS[REFERENCE].label


def real_evidence(folder: Path) -> dict[str, Any]:
    """Task and number of rows -> arm -> chance, and by seed score and norm, of all arms whose loss is over labels.

    Args:
        folder: with the results of the whole study, or of its small form where the whole one was not run.
    """
    for place in (folder / "real_lm", small_of(folder / "real_lm")):
        cells = by_cell(Folder(place, place).read())
        trained = {cell: arms for cell, arms in cells.items() if cell[1] != "frozen"}
        if trained:
            return {
                f"{task} {size}": {
                    ARMS[name].label: _kept(records)
                    for name, records in sorted(arms.items())
                    if ARMS[name].loss == "labels"
                }
                for (task, size), arms in sorted(trained.items())
            }
    return {}


def _kept(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "majority": records[0]["majority"],
        "scores": {str(record["seed"]): record["test"] for record in records},
        "norms": {str(record["seed"]): record["token_norms"] for record in records},
    }


def norm_checks(results: Results) -> list[Check]:
    """Of each network: the norm of the stored prompt over that of prompt tuning with the same rows and seed."""
    reference = _powers(results, TUNING)
    checked = {name: differences(_powers(results, name), reference) for name in NETWORKS}
    return [
        at_least(f"{name}, the stored prompt", "powers of ten", values, norms.MARGIN)
        for name, values in checked.items()
        if values
    ]


def equal_steps_checks(results: Results) -> list[Check]:
    """Of one trained vector through a network: accuracy minus that of ten random vectors."""
    reference = _values(results, TUNING, "scores")
    checked = {name: differences(_values(results, name, "scores"), reference) for name in SINGLE}
    return [
        at_least(f"{name}, default rates", "accuracy", values, equal_steps.MARGIN)
        for name, values in checked.items()
        if values
    ]


def mean_checks(results: Results) -> list[Check]:
    """Of each regulariser on each task: accuracy minus that of the same prompt without it."""
    return [mean_check(task, each) for task, arms in _real(results).items() for each in compared(arms)]


def spread_checks(results: Results) -> list[Check]:
    """Of each regulariser on each task: the standard deviation over seeds over that without it."""
    return [spread_check(task, each) for task, arms in _real(results).items() for each in compared(arms)]


def own_runs(folder: Path) -> dict[str, Any]:
    """The results of the claims' own runs on the real model, as plain values; empty where there are none.

    Raises:
        DamagedFile: the file is not as it was written.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    return {name: value for name, value in read_results(path).to_json().items() if name != "evidence"}


def asked_itself(claim: Claim, results: Results) -> list[Check]:
    """The checks of a claim, by its own rules, over its own runs on the real model; none where nothing was run."""
    own = results.evidence.get("real_claims")
    if not own:
        return []
    real = Results(**{**own, "design": Design.from_json(own["design"])})
    tasks = ", ".join(real.design.tasks)
    return [
        dataclasses.replace(check, condition=f"{check.condition.replace('own rate', 'default rate')} ({tasks})")
        for check in claim.checks(real)
        if check.n
    ]


def real_checks(name: str, claim: Claim, results: Results) -> list[Check]:
    """All that the real model says of a claim: in its study, and in the claim's own runs."""
    by_study = REAL_CHECKS.get(name)
    return [*(by_study(results) if by_study else ()), *asked_itself(claim, results)]


# By the names of the claims of which the study of the real model has runs.
REAL_CHECKS: Mapping[str, Callable[[Results], list[Check]]] = {
    "norms": norm_checks,
    "equal-steps": equal_steps_checks,
    "ptp-mean": mean_checks,
    "ptp-spread": spread_checks,
}


def _real(results: Results) -> Mapping[str, Any]:
    return results.evidence.get("real_lm") or {}


def _values(results: Results, name: str, quantity: str) -> dict[Cell, float]:
    """A quantity of an arm by task and seed."""
    return {
        (task, int(seed)): value
        for task, arms in _real(results).items()
        for seed, value in arms.get(name, {}).get(quantity, {}).items()
    }


def _powers(results: Results, name: str) -> dict[Cell, float]:
    """The norms of an arm in powers of ten."""
    return {cell: math.log10(norm) for cell, norm in _values(results, name, "norms").items() if norm}
