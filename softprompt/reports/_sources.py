"""What the paths of a report hold: runs, stores of studies, reports on stability, and landscapes."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput, SoftPromptError
from ..settings import Seeds
from ..store import read_json
from ..study import RunSpec, StoredRun, kept_prompt
from ..study import load as load_run
from ..study.stability import Untrained
from ._entry import Entry, Sources
from ._run_folder import run_entries

# Folders that hold no runs of their own, however large they are.
_PRUNED = {"checkpoints", "prompt", "weights", "peft", "fleets"}


def read_sources(paths: Sequence["Path | str"]) -> Sources:
    """Read all runs that the paths name or hold, each once.

    Raises:
        BadInput: a path that does not exist, or one without any run, study, report or landscape.
    """
    folders = {kind: {} for kind in ("run", "store", "stability", "landscape")}
    for path in map(Path, paths):
        if not path.is_dir():
            raise BadInput(f"{str(path)!r} is not a folder; give a run, the store of a study, or a folder of them")
        inside = list(_inside(path))
        if not inside:
            raise BadInput(
                f"{str(path)!r} holds no run; give a folder that `softprompt train`, `study` or `stability` wrote"
            )
        for kind, folder in inside:
            folders[kind].setdefault(folder.resolve(), folder)
    return _gathered({kind: list(by_path.values()) for kind, by_path in folders.items()})


def _inside(folder: Path) -> Iterator[tuple[str, Path]]:
    """The kind and the place of everything in a folder that a report can show."""
    for place, names, files in os.walk(folder):
        names[:] = sorted(set(names) - _PRUNED)
        if "run.json" in files:
            yield "run", Path(place)
        if "landscape.json" in files:
            yield "landscape", Path(place)
        if "report.json" in files and _is_stability(Path(place) / "report.json"):
            yield "stability", Path(place)
        if "runs" in names and any(Path(place, "runs").glob("*.json")):
            names.remove("runs")
            yield "store", Path(place)


def _is_stability(path: Path) -> bool:
    try:
        return "spreads" in read_json(path, max_bytes=None)
    except SoftPromptError:
        return False


def _gathered(folders: Mapping[str, Sequence[Path]]) -> Sources:
    entries: list[Entry] = []
    notes: list[str] = []
    untrained: dict[tuple[str, str], Sequence[Untrained]] = {}
    for folder in folders["run"]:
        try:
            members = run_entries(folder)
            entries += members
            # Runs of before kept the scores without training alone.
            if lines := _baselines_in(folder / "frozen.json")[1]:
                untrained[members[0].key] = lines
        except SoftPromptError as error:
            notes.append(f"{folder} is left out: {error.message}")
    for folder in folders["store"]:
        stored, faults = _of_store(folder)
        entries, notes = entries + stored, notes + faults
        untrained |= _baselines_of(folder)
    stabilities = {folder.name: read_json(folder / "report.json", max_bytes=None) for folder in folders["stability"]}
    entries = _each_once(entries, notes)
    known = {entry.run.name for entry in entries}
    for folder in folders["stability"]:
        entries += [entry for entry in _of_stability(folder, stabilities[folder.name]) if entry.run.name not in known]
        untrained |= _untrained_of(stabilities[folder.name])
    landscapes = {folder.name: read_json(folder / "landscape.json", max_bytes=None) for folder in folders["landscape"]}
    if not entries and not landscapes:
        raise BadInput(f"none of the runs can be shown; {notes[0] if notes else 'they hold no prompts'}")
    return Sources(
        entries=_short_labels(entries), untrained=untrained, stabilities=stabilities, landscapes=landscapes, notes=notes
    )


def _each_once(entries: Sequence[Entry], notes: list[str]) -> list[Entry]:
    """The entries without copies of finished ones; two of the same settings and seeds with other scores both count."""
    kept: list[Entry] = []
    copies: list[str] = []
    finished: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        if entry.state == "finished":
            alike = finished.setdefault((entry.run.name, repr(entry.run.spec.tags)), [])
            if any(other.run.metrics == entry.run.metrics for other in alike):
                copies.append(entry.label)
                continue
            if alike:
                notes.append(f"{entry.label} has the settings and seeds of {alike[0].label}, other scores; both count")
                # Tables count a name once.
                run = dataclasses.replace(entry.run, name=f"{entry.run.name}-{len(alike)}")
                entry = dataclasses.replace(entry, run=run)
            alike.append(entry)
        kept.append(entry)
    if copies:
        shown = ", ".join(copies[:3]) + (" ..." if len(copies) > 3 else "")
        notes.append(f"left out, because another has the same settings, seeds and scores: {len(copies)} ({shown})")
    return kept


def _of_store(store: Path, names: Sequence[str] | None = None) -> tuple[list[Entry], list[str]]:
    """The finished runs of a study's store, and what cannot be read of them."""
    entries, faults = [], []
    has_prompts = (store / "fleets").is_dir()
    for name in names or [path.stem for path in sorted((store / "runs").glob("*.json"))]:
        try:
            run = load_run(store, name)
        except (SoftPromptError, KeyError, TypeError) as error:
            faults.append(f"run {name} of {store} is left out: {getattr(error, 'message', error)}")
            continue
        if run is not None:
            folder = _kept(store, run) if has_prompts else None
            entries.append(_study_entry(run, f"{store.name}/{_described(run)}", folder))
    return entries, faults


def _study_entry(run: StoredRun, label: str, folder: Path | None = None) -> Entry:
    steps = run.spec.settings.steps
    reached = next((int(step) for step in reversed(run.curve.get("step", ())) if step is not None), 0)
    return Entry(label=label, run=run, reached=reached, steps=steps, folder=folder, prompt=run.name)


def _kept(store: Path, run: StoredRun) -> Path | None:
    try:
        return kept_prompt(store, run).parent
    except SoftPromptError:
        return None


def _described(run: StoredRun) -> str:
    return f"{run.spec.prompt.method}-seed{run.spec.prompt.seeds.initialization}-{run.name[:6]}"


def _of_stability(folder: Path, report: Mapping[str, Any]) -> list[Entry]:
    """The runs behind a report on stability: from its store, or, where that is gone, the scores that it kept."""
    names = [name for group in report["about"].get("runs", {}).values() for runs in group.values() for name in runs]
    store = folder.parent.parent
    if names and (store / "runs").is_dir():
        entries, _ = _of_store(store, list(dict.fromkeys(names)))
        if entries:
            return entries
    return [
        entry
        for setting, arm in report.get("arms", {}).items()
        if (spec := report["about"].get("settings", {}).get(setting))
        for entry in _kept_scores(setting, arm, RunSpec.from_json(spec))
    ]


def _kept_scores(setting: str, arm: Mapping[str, Any], spec: RunSpec) -> Iterator[Entry]:
    empty: dict[str, Any] = dict.fromkeys(("best_step", "trainable", "head", "stored"), 0)
    for seeds, score in zip(arm["seeds"], arm["scores"], strict=True):
        chosen = Seeds(**dict(zip(vars(spec.prompt.seeds), seeds, strict=True)))
        of_seed = dataclasses.replace(
            spec, prompt=dataclasses.replace(spec.prompt, seeds=chosen), tags={"setting": setting}
        )
        metrics = {} if score is None else {"test": {"score": score}}
        run = StoredRun(
            name=of_seed.name, spec=of_seed, metrics=metrics, majority=arm.get("chance"), seconds=0.0,
            status="dropped" if score is None else "finished", **empty,
        )  # fmt: skip
        yield _study_entry(run, f"{setting}, seed {chosen.initialization}")


def _baselines_of(store: Path) -> dict[tuple[str, str], Sequence[Untrained]]:
    """What `softprompt stability` kept of the frozen model in a store."""
    kept: dict[tuple[str, str], Sequence[Untrained]] = {}
    for path in sorted((store / "baselines").glob("*.json")):
        about, lines = _baselines_in(path)
        with contextlib.suppress(KeyError, TypeError):
            kept[about["task"]["name"], about["model"]] = lines
    return kept


def _baselines_in(path: Path) -> tuple[Mapping[str, Any], Sequence[Untrained]]:
    """What a file says of its scores without training, and these; nothing where it is missing or damaged."""
    from ..inference.kept_baselines import read_baselines

    try:
        about, lines = read_baselines(path)
    except SoftPromptError:
        return {}, ()
    return about, [Untrained.of(line) for line in lines]


def _untrained_of(report: Mapping[str, Any]) -> dict[tuple[str, str], Sequence[Untrained]]:
    lines = [Untrained(**line) for line in report.get("untrained", ())]
    return {(report["about"]["task"], report["about"]["model"]): lines} if lines else {}


def _short_labels(entries: Sequence[Entry]) -> list[Entry]:
    """The entries without the name of their folder if all have the same one."""
    folders = {entry.label.partition("/")[0] for entry in entries}
    if len(folders) > 1:
        return list(entries)
    return [dataclasses.replace(e, label=e.label.partition("/")[2] or e.label) for e in entries]
