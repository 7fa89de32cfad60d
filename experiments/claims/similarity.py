"""Claim: the vectors of a reparameterised prompt are alike, and training made them so."""

from collections.abc import Callable, Sequence
from typing import Any

from .arm import P_TUNING, PROMPT_TUNING, RESIDUAL
from .check import Check, at_least
from .claim import Claim, both_rates, fixed
from .results import Record, Results

SETTINGS = (PROMPT_TUNING, P_TUNING, RESIDUAL)
ALIKE, MADE = 0.5, 0.1


def cosine(when: str) -> Callable[[Record], float | None]:
    """The mean cosine between a run's vectors, "start" or "end"."""
    return lambda record: (record.get("cosines") or {}).get(when)


def checks(results: Results) -> Sequence[Check]:
    """Against prompt tuning, and against the untrained prompt."""
    judged = []
    for setting in SETTINGS[1:]:
        for rate, arm in results.arms(setting).items():
            theirs = results.arms(PROMPT_TUNING)[rate]
            values = results.paired(arm, theirs, cosine("end"))
            judged.append(at_least(f"{setting.title} at {rate}, against prompt tuning", "cosine", values, ALIKE))
            start, end = results.values(arm, cosine("start")), results.values(arm, cosine("end"))
            values = [end[cell] - start[cell] for cell in end if cell in start]
            judged.append(at_least(f"{setting.title} at {rate}, against its step 0", "cosine", values, MADE))
    return judged


def figure(results: Results, plots: Any) -> Any:
    """Both matrices of the first task and seed at the papers' rate."""
    task, seed = results.design.tasks[0], results.design.seed_numbers[0]
    pairs = {}
    for setting in SETTINGS:
        cosines = (results.record(task, setting.at_paper, seed) or {}).get("cosines") or {}
        if "start matrix" in cosines:
            pairs[setting.title] = (cosines["start matrix"], cosines["end matrix"])
    return plots.cosine_figure(pairs, title=f"{task}, learning rate 0.3, one seed") if pairs else None


def rows(results: Results) -> Sequence[dict[str, Any]]:
    """Mean cosines of each arm."""
    table = []
    for setting in SETTINGS:
        for rate, arm in results.arms(setting).items():
            sides = {when: list(results.values(arm, cosine(when)).values()) for when in ("start", "end")}
            n = len(sides["end"])
            means = {name: f"{sum(v) / len(v):.3f}" if v else "" for name, v in sides.items()}
            row = {"setting": setting.title, "rate": rate if arm is None else f"{rate} ({arm.lr:g})", "n": n}
            table.append({**row, "step 0": means["start"], "trained": means["end"]})
    return table


SIMILARITY = Claim(
    title="The vectors of a reparameterised prompt are alike",
    source="EPT, section 3.2, figure 3: cosines near 1 in P-Tuning and residual, diverse in prompt tuning",
    rule="The mean cosine between a prompt's ten vectors. The vectors are alike if it is 0.5 or more above prompt "
    "tuning's, with the interval above 0. Training made them alike if it is 0.1 or more above that of the same "
    "prompt before the first step. EPT has one vector and is left out.",
    settings=fixed(SETTINGS),
    arms=both_rates(SETTINGS),
    probes=("cosines",),
    checks=checks,
    figure=figure,
    rows=rows,
)
