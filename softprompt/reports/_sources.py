"""What the paths of a report hold: runs, stores of studies, reports on stability, and landscapes."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput, SoftPromptError, UnknownName
from ..run_layout import FROZEN
from ..settings import Seeds
from ..study import RunSpec, StoredRun, kept_prompt, other_contents, stored_names
from ..study import load as load_run
from ..study.stability import Untrained
from ._documents import Values, read_landscape, read_stability
from ._entry import Entry, Sources
from ._folders import folder_names, places_in
from ._run_folder import run_entries
from ._tasks import with_tasks

# What a document of another program may end in, where ours has a field.
_FOREIGN = (SoftPromptError, KeyError, TypeError, ValueError, AttributeError)


def read_sources(paths: Sequence["Path | str"]) -> Sources:
    """Read all runs that the paths name or hold, each once.

    Raises:
        BadInput: a path that does not exist, or one without any run, study, report or landscape.
    """
    places = places_in(paths)
    names = folder_names([*places["run"], *places["store"]])
    found = _Found()
    for folder in places["run"]:
        found.read_run(folder, names[folder])
    for folder in places["store"]:
        found.read_store(folder, names[folder])
    for folder, name in folder_names(places["stability"]).items():
        found.read_stability(folder, name)
    for folder, name in folder_names(places["landscape"]).items():
        found.read_landscape(folder, name)
    return found.sources()


class _Found:
    """What was read so far."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.notes: list[str] = []
        # Scores without training, each with the name of a run on the same task and model.
        self.untrained: list[tuple[str, Sequence[Untrained]]] = []
        self.stabilities: dict[str, Values] = {}
        self.landscapes: dict[str, Values] = {}

    def read_run(self, folder: Path, name: str) -> None:
        try:
            with _registered():
                members = run_entries(folder, name)
        except SoftPromptError as error:
            self._leave_out(folder, error)
            return
        self.entries += members
        about, lines = _baselines_in(folder / FROZEN)
        # They stand for every run on these rows; runs of earlier versions kept no other comparison.
        if lines and _are_all(about.get("places")):
            self.untrained.append((members[0].run.name, lines))

    def read_store(self, folder: Path, name: str) -> None:
        stored, faults = _of_store(folder, name)
        self.entries += stored
        self.notes += faults
        self.untrained += _baselines_of(folder, stored)

    def read_stability(self, folder: Path, name: str) -> None:
        try:
            report = read_stability(folder)
            members = _of_stability(folder, report)
            lines = [Untrained(**line) for line in report.get("untrained", ())]
        except _FOREIGN as error:
            self._leave_out(folder, error)
            return
        self.stabilities[name] = report
        known = {entry.run.name for entry in self.entries}
        self.entries += [entry for entry in members if entry.run.name not in known]
        if lines and members:
            self.untrained.append((members[0].run.name, lines))

    def read_landscape(self, folder: Path, name: str) -> None:
        try:
            self.landscapes[name] = read_landscape(folder)
        except SoftPromptError as error:
            self._leave_out(folder, error)

    def _leave_out(self, folder: Path, error: Exception) -> None:
        why = error.message if isinstance(error, SoftPromptError) else f"it is not as it was written ({error!r})"
        self.notes.append(f"{folder} is left out: {why}")

    def sources(self) -> Sources:
        if not self.entries and not self.landscapes:
            raise BadInput(f"none of the runs can be shown; {self.notes[0] if self.notes else 'they hold no prompts'}")
        entries = with_tasks(_short_labels(_each_once(self.entries, self.notes)))
        keys = {entry.run.name: entry.scored_on for entry in reversed(entries)}
        if found := other_contents((entry.label, entry.run.inputs) for entry in entries):
            path, one, other = found
            self.notes.append(
                f"{path} had other contents for {one} than for {other}, so that their scores are of other rows; train "
                "one of them again"
            )
        return Sources(
            entries=entries,
            untrained={keys[name]: lines for name, lines in self.untrained},
            stabilities=self.stabilities,
            landscapes=self.landscapes,
            notes=self.notes,
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


def _of_store(store: Path, shown: str, names: Sequence[str] = ()) -> tuple[list[Entry], list[str]]:
    """The finished runs of a study's store, and what cannot be read of them."""
    entries, faults = [], []
    has_prompts = (store / "fleets").is_dir()
    for name in names or sorted(stored_names(store)):
        try:
            run = load_run(store, name)
            with _registered():
                _ = run and run.spec.numbers()
        except (SoftPromptError, KeyError, TypeError) as error:
            faults.append(f"run {name} of {store} is left out: {getattr(error, 'message', error)}")
            continue
        if run is not None:
            folder = _kept(store, run) if has_prompts else None
            entries.append(_study_entry(run, f"{shown}/{run.label}", folder))
    return entries, faults


@contextlib.contextmanager
def _registered() -> Iterator[None]:
    """Within, a method or regulariser that this program does not know is told of with what to do.

    Raises:
        BadInput: nothing says what the numbers of such a run were.
    """
    try:
        yield
    except UnknownName as error:
        raise BadInput(f"{error.message} If it is your own, make the report in a program that registers it") from error


def _study_entry(run: StoredRun, label: str, folder: Path | None = None) -> Entry:
    steps = run.spec.settings.steps
    reached = next((int(step) for step in reversed(run.curve.get("step", ())) if step is not None), 0)
    return Entry(label=label, run=run, reached=reached, steps=steps, folder=folder, prompt=run.name)


def _kept(store: Path, run: StoredRun) -> Path | None:
    try:
        return kept_prompt(store, run).parent
    except SoftPromptError:
        return None


def _of_stability(folder: Path, report: Values) -> list[Entry]:
    """The runs behind a report on stability: from its store, or, where that is gone, the scores that it kept."""
    names = [name for group in report["about"].get("runs", {}).values() for runs in group.values() for name in runs]
    store = folder.parent.parent
    if names and (store / "runs").is_dir():
        entries, _ = _of_store(store, store.name, list(dict.fromkeys(names)))
        if entries:
            return entries
    return [
        entry
        for setting, arm in report.get("arms", {}).items()
        if (spec := report["about"].get("settings", {}).get(setting))
        for entry in _kept_scores(setting, arm, RunSpec.from_json(spec))
    ]


def _kept_scores(setting: str, arm: Mapping[str, Any], spec: RunSpec) -> Iterator[Entry]:
    for seeds, score in zip(arm["seeds"], arm["scores"], strict=True):
        chosen = Seeds(**dict(zip(vars(spec.prompt.seeds), seeds, strict=True)))
        of_seed = dataclasses.replace(
            spec, prompt=dataclasses.replace(spec.prompt, seeds=chosen), tags={"setting": setting}
        )
        metrics = {} if score is None else {"test": {"score": score}}
        status = "dropped" if score is None else "finished"
        run = StoredRun.without_result(of_seed, metrics, status, majority=arm.get("chance"))
        yield _study_entry(run, f"{setting}, seed {chosen.initialization}")


def _baselines_of(store: Path, stored: Sequence[Entry]) -> Iterator[tuple[str, Sequence[Untrained]]]:
    """What `softprompt stability` kept of the frozen model in a store, each with the name of a run on the same rows."""
    runs = {(id(entry.run.spec.declared), *entry.scored_on): entry.run for entry in stored}
    for path in sorted((store / "baselines").glob("*.json")):
        about, lines = _baselines_in(path)
        task = about.get("task", {})
        scored_on = (task.get("name"), about.get("model"), about.get("settings", {}).get("test_rows"))
        of = [run for (_, *of_run), run in runs.items() if tuple(of_run) == scored_on]
        if len(of) > 1:
            of = [run for run in of if run.spec.numbers()["task"] == task]
        if of:
            yield of[0].name, lines


def _are_all(places: Any) -> bool:
    """Whether the places of test rows are those of all of them: rows that were drawn leave some out."""
    return isinstance(places, list) and places == list(range(len(places)))


def _baselines_in(path: Path) -> tuple[Mapping[str, Any], Sequence[Untrained]]:
    """What a file says of its scores without training, and these; nothing where it is missing or damaged."""
    from ..inference.kept_baselines import read_baselines

    try:
        about, lines = read_baselines(path)
    except SoftPromptError:
        return {}, ()
    return about, [Untrained.of(line) for line in lines]


def _short_labels(entries: Sequence[Entry]) -> list[Entry]:
    """The entries without the name of their folder if all have the same one."""
    folders = {entry.label.partition("/")[0] for entry in entries}
    if len(folders) > 1:
        return list(entries)
    return [dataclasses.replace(e, label=e.label.partition("/")[2] or e.label) for e in entries]
