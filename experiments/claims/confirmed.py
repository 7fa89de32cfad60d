"""EPT and EPT* against prompt tuning in the confirmation study: on other backbones, tasks and lengths."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..common.paired import Cell, Mean, differences
from .arm import EPT, EPT_STAR, PROMPT_TUNING, Setting
from .check import Check, at_least
from .results import Results

# The results call the linear probe by the study's own name for it.
HEAD = Setting("head-only")


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs of one part of the study on one frozen model, each method at its own learning rate.

    Args:
        part: of the confirmation study.
        model: by its name there.
        steps: optimiser steps.
        scores: method -> score by task and seed.
    """

    part: str
    model: str
    steps: int
    scores: Mapping[str, Mapping[Cell, float]]

    @property
    def title(self) -> str:
        """As people read it."""
        return f"{self.model}, {self.steps:,} steps ({self.part})"

    def against(self, setting: Setting, other: Setting) -> list[float]:
        """The differences of scores over the tasks and seeds that both have."""
        return differences(self.scores.get(setting.name, {}), self.scores.get(other.name, {}))


def groups(results: Results) -> Iterator[Group]:
    """Every part and model of the study that the results hold."""
    for part, models in (results.evidence.get("confirmation") or {}).items():
        for model, group in models.items():
            scores: dict[str, dict[Cell, float]] = {}
            for task, methods in group["tasks"].items():
                for method, by_seed in methods.items():
                    known = {(task, int(seed)): score for seed, score in by_seed.items() if score is not None}
                    scores.setdefault(method, {}).update(known)
            yield Group(part=part, model=model, steps=group["steps"], scores=scores)


def checks(results: Results, margin: float) -> list[Check]:
    """EPT and EPT* against prompt tuning, one check a part and model in which both ran."""
    return [
        at_least(f"{setting.title} on {group.title}", "score", values, margin)
        for group in groups(results)
        for setting in (EPT, EPT_STAR)
        if (values := group.against(setting, PROMPT_TUNING))
    ]


def rows(results: Results) -> Sequence[dict[str, Any]]:
    """Means of each part and model, against prompt tuning and, where it ran, against the head alone."""
    table = []
    for group in groups(results):
        for setting in (PROMPT_TUNING, EPT, EPT_STAR):
            scores = group.scores.get(setting.name, {})
            if scores and any(group.against(method, PROMPT_TUNING) for method in (EPT, EPT_STAR)):
                row = {"confirmation study": group.title, "setting": setting.title, "runs": len(scores)}
                against = {"minus prompt tuning": PROMPT_TUNING, "minus the head alone": HEAD}
                row |= {name: _difference(group, setting, other) for name, other in against.items()}
                table.append({**row, "score": f"{fmean(scores.values()):.3f}"})
    return table


def _difference(group: Group, setting: Setting, other: Setting) -> str:
    """The mean difference with its interval and its pairs; empty where there is none."""
    compared = Mean.of([] if setting == other else group.against(setting, other))
    if compared.low is None:
        return ""
    return f"{compared.mean:+.3f} ({compared.low:+.3f} to {compared.high:+.3f}; {compared.n})"
