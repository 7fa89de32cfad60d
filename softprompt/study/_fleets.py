"""Which runs share a pass, who trains them, and what a killed process left: the work folders of a store.

    STORE/runs/<name>.json           finished runs
    STORE/fleets/<id>/fleet.json     the runs that a fleet trains, in order
    STORE/fleets/<id>/run/           the run folder of `softprompt.training`
    STORE/fleets/<id>/.lock          held by the process that trains it; it ends with the process, also by SIGKILL
    STORE/.lock                      held for the moment in which a process looks around and claims a fleet

All decisions are taken under the store's lock, so that no two processes train one run, and a group of runs that one
process would train together is trained together by whoever comes first.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DamagedFile
from ._spec import DIGITS, RunSpec, compact
from ._stored import path_of

if TYPE_CHECKING:
    from filelock import FileLock

SPECS = "fleet.json"


@dataclass(frozen=True)
class Fleet:
    """A claimed work folder. No other process trains these runs until it is released."""

    folder: Path
    specs: tuple[RunSpec, ...]
    keep: bool
    lock: "FileLock"

    @property
    def run(self) -> Path:
        """The run folder of training."""
        return self.folder / "run"

    @property
    def is_started(self) -> bool:
        """Whether training has written its plan, so that it can resume."""
        return (self.run / "run.json").is_file()


@dataclass(frozen=True)
class Claim:
    """The result of a claim: a fleet to train, or None, and the runs that other processes hold."""

    fleet: Fleet | None
    busy: frozenset[str] = frozenset()


def group(specs: Sequence[RunSpec], fleet_size: int) -> list[tuple[RunSpec, ...]]:
    """The runs without repetition in groups that may share a pass, at most `fleet_size` each, by first appearance.

    A run counts as many prompts as it has restarts, and as one without; one of more than `fleet_size` is alone.
    """
    shared: dict[str, dict[str, RunSpec]] = {}
    for spec in specs:
        shared.setdefault(spec.pass_key(), {})[spec.name] = spec
    return [part for members in shared.values() for part in _filled(members.values(), fleet_size)]


def _filled(members: Iterable[RunSpec], fleet_size: int) -> Iterator[tuple[RunSpec, ...]]:
    part: list[RunSpec] = []
    for spec in members:
        if part and sum(member.prompt.restarts for member in (*part, spec)) > fleet_size:
            yield tuple(part)
            part = []
        part.append(spec)
    yield tuple(part)


def claim(store: Path, groups: Sequence[tuple[RunSpec, ...]], *, keep: bool = False) -> Claim:
    """The next fleet to train for these groups: one that a killed process left, or a new one.

    Args:
        store: the folder of the store.
        groups: of `group`; runs that are stored or held are left out of a new fleet.
        keep: leave the work folder when its runs are stored.
    """
    store.mkdir(parents=True, exist_ok=True)
    with alone(store):
        held = _folders(store)
        missing = {s.name for members in groups for s in members if not path_of(store, s.name).exists()}
        busy: set[str] = set()
        for folder, specs in held.items():
            if not missing & {spec.name for spec in specs}:
                _sweep(store, folder, specs)
                continue
            lock = _try_lock(folder)
            if lock is None:
                busy |= missing & {spec.name for spec in specs}
                continue
            return Claim(Fleet(folder, specs, keep or _is_kept(folder), lock), frozenset(busy))
        taken = {spec.name for specs in held.values() for spec in specs}
        for members in groups:
            left = tuple(spec for spec in members if spec.name in missing - taken)
            if left:
                return Claim(_new(store, left, keep), frozenset(busy))
        return Claim(None, frozenset(busy))


def finish(store: Path, fleet: Fleet) -> None:
    """Release a fleet whose runs are stored. Its work folder is removed, or kept without checkpoints."""
    with alone(store):
        if fleet.keep:
            shutil.rmtree(fleet.run / "checkpoints", ignore_errors=True)
            _describe(fleet.folder, fleet.specs, keep=True)
        else:
            _remove(fleet.folder)
        fleet.lock.release()


def give_up(store: Path, fleet: Fleet) -> None:
    """Release a fleet that was not trained to its end. Its folder stays if training can resume from it."""
    if not fleet.folder.is_dir():
        # The store was moved or deleted, so its old path is not created again.
        fleet.lock.release()
        return
    with alone(store):
        if not fleet.is_started:
            _remove(fleet.folder)
        fleet.lock.release()


def held_names(store: Path) -> set[str]:
    """Names of the runs in work folders, for display. They are read without the store's lock."""
    names: set[str] = set()
    for path in (store / "fleets").glob(f"*/{SPECS}"):
        # Another process may remove or replace a folder at this moment.
        with contextlib.suppress(OSError, ValueError):
            names |= set(json.loads(path.read_bytes())["names"])
    return names


@contextlib.contextmanager
def alone(store: Path) -> Iterator[None]:
    """Keep other processes from claiming or removing fleets of this store during the `with` block."""
    from filelock import FileLock

    with FileLock(store / ".lock"):
        yield


def _folders(store: Path) -> dict[Path, tuple[RunSpec, ...]]:
    """The work folders and their runs, by name. Folders that a killed process left incomplete are deleted."""
    folders = {}
    for folder in sorted((store / "fleets").glob("*")):
        if folder.name.startswith(".") or not (folder / SPECS).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            values = json.loads((folder / SPECS).read_bytes())
            specs = tuple(RunSpec.from_json(spec) for spec in values["specs"])
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedFile(f"{folder / SPECS} cannot be read ({error}); delete {folder} and run again") from error
        # Another version of the code named these runs, with other defaults. Resuming would mix both in one run.
        if [spec.name for spec in specs] == values["names"]:
            folders[folder] = specs
    return folders


def run_folder(store: Path, names: Sequence[str]) -> Path:
    """The work folder in which the runs of these names are trained, together and in this order."""
    return _folder_of(store, names) / "run"


def _folder_of(store: Path, names: Sequence[str]) -> Path:
    return store / "fleets" / hashlib.sha256(compact(list(names))).hexdigest()[:DIGITS]


def _new(store: Path, specs: tuple[RunSpec, ...], keep: bool) -> Fleet:
    folder = _folder_of(store, [spec.name for spec in specs])
    # A kept fleet whose results were deleted is trained again.
    if folder.exists():
        _remove(folder)
    _describe(folder, specs, keep)
    lock = _try_lock(folder)
    assert lock is not None, "a folder made under the store's lock is nobody else's"
    return Fleet(folder, specs, keep, lock)


def _describe(folder: Path, specs: Sequence[RunSpec], keep: bool) -> None:
    from ..store import write_file

    values: dict[str, object] = {"keep": keep, "names": [spec.name for spec in specs]}
    values["specs"] = [spec.to_json() for spec in specs]
    write_file(folder / SPECS, compact(values) + b"\n", what="the plan of a fleet", replace=True)


def _is_kept(folder: Path) -> bool:
    return bool(json.loads((folder / SPECS).read_bytes())["keep"])


def _try_lock(folder: Path) -> "FileLock | None":
    """The folder's lock, or None if another process has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def _sweep(store: Path, folder: Path, specs: Sequence[RunSpec]) -> None:
    """Remove the folder of a process that was killed after it had stored its last run."""
    if _is_kept(folder) or not all(path_of(store, spec.name).exists() for spec in specs):
        return
    lock = _try_lock(folder)
    if lock is not None:
        _remove(folder)
        lock.release()


def _remove(folder: Path) -> None:
    """The folder is renamed first, because a half-removed folder must not be resumed."""
    hidden = folder.with_name(f".{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
