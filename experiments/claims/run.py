"""Train the runs that the results lack, claim by claim, through the store; the same call continues."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from softprompt.settings import PromptSettings
from softprompt.study import StoredRun, run_all

from ..common.rates import best_rate, is_at_edge, rates_to_try
from .arm import Arm, Setting
from .claim import Claim
from .design import FULL, RATE_SEEDS, Design
from .evidence import take_evidence
from .probe import PROBES, Bench
from .results import Record, Results, read_results
from .table import CLAIMS

log = logging.getLogger("softprompt")

FLEET_SIZE = 8
# Number of seeds that every claim gets before any claim gets the next, so that all are about equally far.
BLOCK = 2


def run(
    path: "Path | str",
    *,
    store: "Path | str",
    design: Design = FULL,
    evidence: "Path | str | None" = None,
    claims: Mapping[str, Claim] = CLAIMS,
    fleet_size: int = FLEET_SIZE,
    device: str = "auto",
    progress: bool = True,
) -> Results:
    """The results of all claims, in the file and as a value; runs that are in the file are not made again.

    Args:
        path: of the results; made if it is not there.
        store: folder of the runs and their prompts.
        design: what the claims are tried on.
        evidence: folder with the results of other studies; None uses none.
        claims: by name.
        fleet_size: most runs that share a pass.
        device: "auto", "cpu", "cuda" ...
        progress: show what is trained on standard error.

    Raises:
        BadInput: the file holds results of another study.
        DamagedFile: the file, or a stored run, is not as it was written.
        Interrupted: after Ctrl-C; the same call goes on.
    """
    path = Path(path)
    results = Results(design=design)
    if path.exists():
        stored = read_results(path)
        design.refuse_other(stored.design, path)
        results = dataclasses.replace(stored, design=design)
    if evidence is not None:
        take_evidence(results, evidence)
    results.write(path)
    work = Work(results, path, Path(store), fleet_size=fleet_size, device=device, progress=progress)
    work.score_unprompted()
    seeds = design.seed_numbers
    for start in range(0, len(seeds), BLOCK):
        # Claims without a learning rate of their own come first, because another study may still choose the rates.
        for name, claim in sorted(claims.items(), key=lambda item: bool(item[1].settings(design))):
            work.choose_rates(name, claim.settings(design))
            arms = claim.arms(design, rates_of(results, claim))
            for task in design.tasks:
                work.train(name, task, arms, seeds[start : start + BLOCK], claim.probes)
    return results


def rates_of(results: Results, claim: Claim) -> dict[Setting, float]:
    """The own learning rates of a claim's settings, as far as they are chosen."""
    rates = {setting: results.own_rate(setting) for setting in claim.settings(results.design)}
    return {setting: lr for setting, lr in rates.items() if lr is not None}


def default_rate(setting: Setting, design: Design) -> float:
    """The learning rate of a setting that says none, in the design's units."""
    from softprompt.prompts.methods import Method

    settings = PromptSettings(method=setting.method, options=dict(setting.options), units=design.units)
    rate = Method.of(settings).resolved(settings).lr
    assert rate is not None
    return rate


@final
class Work:
    """The work of one process. After each task its results are in the file.

    Args:
        results: changed in place.
        path: where they are written.
        store: folder of the runs.
        fleet_size: as in `run`.
        device: likewise.
        progress: likewise.
    """

    def __init__(self, results: Results, path: Path, store: Path, *, fleet_size: int, device: str, progress: bool):
        self.results, self.path, self.store = results, path, store
        self.fleet_size, self.device, self.progress = fleet_size, device, progress
        self.bench = Bench(results.design, device)

    def score_unprompted(self) -> None:
        """Score the frozen model alone on each task."""
        from softprompt.lab.compared import no_prompt

        for task in self.results.design.tasks:
            if task not in self.results.unprompted:
                self.results.unprompted[task] = self.bench.score(no_prompt(self.bench.backbone), task)
                self.results.write(self.path)

    def choose_rates(self, claim: str, settings: Sequence[Setting]) -> None:
        """The best rate of each setting by mean validation score over the tasks, on seeds that are not reported.

        Where the design takes the methods' defaults, these.
        """
        if self.results.design.at_defaults:
            for setting in settings:
                self.results.rates[setting.name] = {
                    "lr": default_rate(setting, self.results.design),
                    "source": "the method's default",
                    "edge": False,
                    "trials": {},
                }
            return
        while True:
            wanted = {s: rates for s in settings if (rates := self._wanted_rates(s))}
            if not wanted:
                return
            arms = [setting.at(lr) for setting, rates in wanted.items() for lr in rates]
            for task in self.results.design.tasks:
                left = [arm for arm in arms if task not in self._trials(arm.setting).get(repr(arm.lr), {})]
                if not left:
                    continue
                self._say(f"{claim}: learning rates on {task}, {len(left)} runs")
                for arm, run in zip(left, self._runs(task, left, RATE_SEEDS, keep=False), strict=True):
                    self._trials(arm.setting).setdefault(repr(arm.lr), {})[task] = run.validation_score
                self.results.write(self.path)

    def train(self, claim: str, task: str, arms: Sequence[Arm], seeds: Sequence[int], probes: Sequence[str]) -> None:
        """Train each arm with each seed on one task, and measure the prompts."""
        cells = [(arm, seed) for arm in arms for seed in seeds if self._is_missing(task, arm, seed, probes)]
        if not cells:
            return
        self._say(f"{claim}: {task}, {len(cells)} runs")
        specs = [arm.spec(self.results.design, task, seed) for arm, seed in cells]
        runs = run_all(
            specs, self.store, fleet_size=self.fleet_size, device=self.device, keep=True, progress=self.progress
        )
        for (arm, seed), run in zip(cells, runs, strict=True):
            old = self.results.record(task, arm, seed) or {}
            same = {name: value for name, value in old.items() if name in PROBES and old["run"] == run.name}
            self.results.keep(
                task, arm, seed, {**self._record(run), **same, **self._probed(run, task, arm, seed, probes)}
            )
        self.results.write(self.path)

    def _is_missing(self, task: str, arm: Arm, seed: int, probes: Sequence[str]) -> bool:
        record = self.results.record(task, arm, seed)
        is_known = record is not None and record["run"] == arm.spec(self.results.design, task, seed).name
        return not is_known or any(probe not in (record or {}) for probe in probes)

    def _runs(self, task: str, arms: Sequence[Arm], seeds: Sequence[int], *, keep: bool) -> list[StoredRun]:
        specs = [arm.spec(self.results.design, task, seed) for arm in arms for seed in seeds]
        return run_all(
            specs, self.store, fleet_size=self.fleet_size, device=self.device, keep=keep, progress=self.progress
        )

    def _record(self, run: StoredRun) -> Record:
        """The record of a run."""
        norms = dict(zip(run.curve.get("step", ()), run.curve.get("token_norms", ()), strict=False))
        return {
            "run": run.name,
            "score": run.score,
            "validation": run.validation_score,
            "majority": run.majority,
            "norms": [_short(norms.get(step)) for step in self.results.design.norm_steps],
        }

    def _probed(self, run: StoredRun, task: str, arm: Arm, seed: int, probes: Sequence[str]) -> Record:
        """The measurements of a run's prompt; None for a dropped run."""
        from softprompt.prompts.prompt import SoftPrompt
        from softprompt.study import kept_prompt

        if not probes or run.is_dropped:
            return dict.fromkeys(probes)
        prompt = SoftPrompt.load(kept_prompt(self.store, run))
        return {probe: PROBES[probe](self.bench, prompt, task, arm, seed) for probe in probes}

    def _trials(self, setting: Setting) -> dict[str, Any]:
        new = {"lr": None, "source": f"validation, seed {RATE_SEEDS[0]}", "edge": False, "trials": {}}
        return self.results.rates.setdefault(setting.name, new)["trials"]

    def _wanted_rates(self, setting: Setting) -> Sequence[float]:
        """The rates still to be tried; none when one is chosen, which is then written down."""
        design = self.results.design
        if self.results.own_rate(setting) is not None:
            return ()
        trials = self._trials(setting)
        means = {
            float(lr): sum(by_task[task] or 0.0 for task in design.tasks) / len(design.tasks)
            for lr, by_task in trials.items()
            if all(task in by_task for task in design.tasks)
        }
        left = rates_to_try(means, design.first_rates, design.beyond)
        if not left:
            self.results.rates[setting.name] |= {"lr": best_rate(means), "edge": is_at_edge(means)}
        return left

    def _say(self, line: str) -> None:
        if self.progress:
            log.info(line)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
