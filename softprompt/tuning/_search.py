"""The search: waves of candidates, each of one shape, until the budget or the number of trials is used up."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..backbones import AbstractBackbone
from ..errors import BadInput
from ..training import Plan, resolved
from ._halving import Halving
from ._kept import kept
from ._rows import on_files
from ._runs import Fit, fits_or_faults
from ._space import Candidate, Params, Space
from ._trials import Trial, Wave, proposals, read_waves, wave_folder

# Candidates of a wave.
FLEET = 4


@dataclass(frozen=True, kw_only=True)
class Search:
    """What all waves share.

    Args:
        folder: of the search.
        space: what may be proposed.
        backbone: frozen.
        folds: how many; 1 where some rows are held out for choosing.
        rungs: steps at which the worse half stops.
        watch: callbacks of each run, which show its progress.
    """

    folder: Path
    space: Space
    backbone: AbstractBackbone
    folds: int
    rungs: Sequence[int]
    watch: Sequence[Any] = ()

    def run(self, is_spent: Callable[[Sequence[Wave]], bool], most: int) -> list[Wave]:
        """Wave after wave; those that are on disk are read and not trained again.

        Args:
            is_spent: asked before each wave but the first.
            most: trials in all.
        """
        waves = read_waves(self.folder)
        while (count := most - sum(len(wave.trials) for wave in waves)) > 0 and not (waves and is_spent(waves)):
            waves.append(self._wave(waves, min(FLEET, count)))
        return waves

    def _wave(self, waves: Sequence[Wave], count: int) -> Wave:
        number, before = len(waves), [trial for wave in waves for trial in wave.trials]
        folder, start = wave_folder(self.folder, number), time.perf_counter()
        asked: list[Params] = kept(folder / "asked.json", lambda: proposals(self.space, before, number, count))
        trials = self._trained(folder, asked, before)
        if trials[0].number == 0 and trials[0].value is None:
            raise BadInput(f"the default settings cannot be trained here: {trials[0].note}")
        kept(
            folder / "told.json",
            lambda: {"trials": [trial.to_json() for trial in trials], "seconds": time.perf_counter() - start},
        )
        return read_waves(self.folder)[-1]

    def _trained(self, folder: Path, asked: Sequence[Params], before: Sequence[Trial]) -> list[Trial]:
        """How each proposal ended; settings that were tried before are not trained again."""
        candidates = [self.space.candidate(params) for params in asked]
        names = [self._name(candidate) for candidate in candidates]
        known = {self._name(self.space.candidate(trial.params)): trial for trial in before if trial.state != "repeated"}
        new = {
            place: candidates[place]
            for place, name in enumerate(names)
            if name not in known and name not in names[:place]
        }
        fits = self._fits(folder, new, before)
        trials: list[Trial] = []
        for place, (params, name) in enumerate(zip(asked, names, strict=True)):
            number = len(before) + place
            if place in new:
                known[name] = self._trial(number, params, fits[place])
                trials.append(known[name])
            else:
                trials.append(_as_before(number, params, known[name]))
        return trials

    def _name(self, candidate: Candidate) -> str:
        return candidate.spec(self.backbone).name

    def _fits(
        self, folder: Path, candidates: Mapping[int, Candidate], before: Sequence[Trial]
    ) -> "dict[int, list[Fit | str]]":
        """How each candidate did on each fold that it was trained on; one that stops on the first sees no other."""
        fits: dict[int, list[Fit | str]] = {place: [] for place in candidates}
        left = list(candidates)
        for fold in range(self.folds):
            for places in self._fleets({place: candidates[place] for place in left}):
                fleet = [candidates[place] for place in places]
                there = [dataclasses.replace(one, task=on_files(one.task, self.folder, fold)) for one in fleet]
                halving = [self._halving(there, before, is_first=0 in places)] if fold == 0 else []
                where = folder / f"fold-{fold}" / f"fleet-{places[0]}"
                ended = fits_or_faults(where, there, self.backbone, [*halving, *self.watch])
                for place, fit in zip(places, ended, strict=True):
                    fits[place].append(fit)
            left = [place for place in left if _goes_on(fits[place][-1])]
        return fits

    def _fleets(self, candidates: Mapping[int, Candidate]) -> list[list[int]]:
        """The places of candidates that may share the passes of the frozen model, together."""
        groups: dict[str, list[int]] = {}
        for place, candidate in candidates.items():
            groups.setdefault(candidate.spec(self.backbone).pass_key(), []).append(place)
        return list(groups.values())

    def _halving(self, fleet: Sequence[Candidate], before: Sequence[Trial], *, is_first: bool) -> Halving:
        """The rule by which the worse half of all candidates stops; the default, which comes first, never does."""
        earlier = {rung: [trial.rungs[rung] for trial in before if rung in trial.rungs] for rung in self.rungs}
        # As the run names them: with the rates of their methods.
        first, prompts = fleet[0], tuple(resolved(candidate.prompt) for candidate in fleet)
        plan = Plan(task=first.task, model=self.backbone.spec, prompts=prompts, settings=first.settings)
        spared = frozenset(plan.prompt_names()[:1]) if is_first and not before else frozenset()
        return Halving(rungs=self.rungs, earlier=earlier, spared=spared)

    def _trial(self, number: int, params: Params, fits: "Sequence[Fit | str]") -> Trial:
        """What came of a candidate on one fold after another."""
        trained = [fit for fit in fits if isinstance(fit, Fit)]
        steps = sum(fit.result.prompt_steps or 0 for fit in trained)
        fault = next((fit for fit in fits if isinstance(fit, str)), "")
        scores = [fit.score for fit in trained]
        if fault or not scores or None in scores:
            note = fault or (trained[-1].result.status if trained else "")
            return Trial(number=number, params=params, state="failed", steps=steps, note=note)
        rungs = {rung: best for rung in self.rungs if (best := trained[0].best_until(rung)) is not None}
        return Trial(
            number=number,
            params=params,
            state="finished" if len(fits) == self.folds and _goes_on(fits[-1]) else "dropped",
            value=fmean(score for score in scores if score is not None),
            rungs=rungs,
            steps=steps,
        )


def _goes_on(fit: "Fit | str") -> bool:
    return isinstance(fit, Fit) and fit.is_finished


def _as_before(number: int, params: Params, same: Trial) -> Trial:
    return Trial(
        number=number, params=params, state="repeated", value=same.value, note=f"the same as trial {same.number}"
    )
