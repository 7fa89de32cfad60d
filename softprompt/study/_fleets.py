"""Which runs share a pass, who trains them, and what a killed process left: the work folders of a store.

    STORE/runs/<name>.json           finished runs
    STORE/failed/<name>/             the traceback of a run that failed
    STORE/fleets/<id>/fleet.json     the runs that a fleet trains, in order, and the name of its run folder
    STORE/fleets/<id>/inputs.json    SHA-256 of the files that its runs began from
    STORE/fleets/<id>/run/           the run folder of `softprompt.training`
    STORE/fleets/<id>/lease.json     who trains it (`_lease`)
    STORE/.lock                      held for the moment in which a process looks around and claims a fleet

All decisions are taken under the store's lock, so that no two processes train one run, and a group of runs that one
process would train together is trained together by whoever comes first.
"""

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..documents import SEALED, compact, read_sealed, sealed_bytes
from ..errors import DamagedFile
from ..run_layout import CHECKPOINTS, is_run
from ._failed import failed_names
from ._lease import SECONDS, Lease, take
from ._spec import DIGITS, RunSpec
from ._stored import path_of, stored_names

SPECS = "fleet.json"
# The run folder of a fleet's first owner.
RUN = "run"


@dataclass(frozen=True)
class Fleet:
    """A claimed work folder. No other process trains these runs until it is released, or its lease is lost."""

    folder: Path
    specs: tuple[RunSpec, ...]
    keep: bool
    lease: Lease

    @property
    def run(self) -> Path:
        """The run folder of training."""
        return self.folder / self.lease.run

    @property
    def is_started(self) -> bool:
        """Whether training has written its plan, so that it can resume."""
        return is_run(self.run)


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


def claim(
    store: Path, groups: Sequence[tuple[RunSpec, ...]], *, keep: bool = False, lease_seconds: float = SECONDS
) -> Claim:
    """The next fleet to train for these groups: one that a process left when it died or stalled, or a new one.

    Args:
        store: the folder of the store.
        groups: of `group`; runs that are stored, have failed or are held are left out of a new fleet.
        keep: leave the work folder when its runs are stored.
        lease_seconds: how long the fleet is this process's without a sign of life.
    """
    store.mkdir(parents=True, exist_ok=True)
    with alone(store):
        held = _folders(store)
        ended = stored_names(store) | failed_names(store)
        missing = {spec.name for members in groups for spec in members} - ended
        busy: set[str] = set()
        for folder, plan in held.items():
            left = missing & set(plan.names)
            if not left:
                _sweep(store, folder, plan, ended)
                continue
            if plan.is_done:
                # It keeps prompts of runs whose results were deleted. Those are trained again, in another folder.
                continue
            lease = take(store, folder, plan.run, lease_seconds)
            if lease is None:
                busy |= left
                continue
            return Claim(_taken(folder, plan, keep, lease), frozenset(busy))
        waiting = missing - {name for plan in held.values() if not plan.is_done for name in plan.names}
        for members in groups:
            left = tuple(spec for spec in members if spec.name in waiting)
            if left:
                return Claim(_new(store, left, keep, lease_seconds), frozenset(busy))
        return Claim(None, frozenset(busy))


def finish(store: Path, fleet: Fleet) -> None:
    """Release a fleet whose runs are stored. Its work folder is removed, or kept without checkpoints."""
    with alone(store):
        if fleet.lease.is_ours and fleet.keep:
            shutil.rmtree(fleet.run / CHECKPOINTS, ignore_errors=True)
            _describe(fleet.folder, fleet.specs, True, fleet.lease.run, is_done=True)
        elif fleet.lease.is_ours:
            _remove(fleet.folder)
        fleet.lease.release()


def give_up(store: Path, fleet: Fleet, *, can_resume: bool = True) -> None:
    """Release a fleet that was not trained to its end. Its folder stays if training can resume from it.

    Args:
        store: the folder of the store.
        fleet: the fleet.
        can_resume: whether its folder is of use to whoever trains these runs next.
    """
    if not fleet.folder.is_dir():
        # The store was moved or deleted, so its old path is not created again.
        fleet.lease.release()
        return
    with alone(store):
        if fleet.lease.is_ours and not (can_resume and fleet.is_started):
            _remove(fleet.folder)
        fleet.lease.release()


def held_names(store: Path) -> set[str]:
    """Names of the runs in work folders, for display. They are read without the store's lock."""
    names: set[str] = set()
    for path in (store / "fleets").glob(f"*/{SPECS}"):
        # Another process may remove or replace a folder at this moment.
        with contextlib.suppress(OSError, ValueError):
            values = json.loads(path.read_bytes())
            names |= set() if values.get("done") else set(values["names"])
    return names


@contextlib.contextmanager
def alone(store: Path) -> Iterator[None]:
    """Keep other processes from claiming or removing fleets of this store during the `with` block."""
    from filelock import FileLock

    with FileLock(store / ".lock"):
        yield


@dataclass(frozen=True)
class _Plan:
    """What fleet.json says."""

    names: tuple[str, ...]
    specs: tuple[RunSpec, ...]
    keep: bool
    run: str
    is_done: bool = False


def _folders(store: Path) -> dict[Path, _Plan]:
    """The work folders and what they train. Folders that a killed process left incomplete are deleted."""
    folders = {}
    for folder in sorted((store / "fleets").glob("*")):
        if folder.name.startswith(".") or not (folder / SPECS).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            continue
        # Where another version of the code had other defaults, its runs have names that nobody asks for now.
        folders[folder] = _plan(folder, (folder / SPECS).stat().st_mtime_ns)
    return folders


@functools.lru_cache(maxsize=10_000)
def _plan(folder: Path, changed: int) -> _Plan:
    """The plan of a work folder, read once after each change."""
    try:
        values = read_sealed(folder / SPECS, earlier_names=["names"], repair=f"delete {folder} and run again")
        specs = tuple(RunSpec.from_json(spec) for spec in values["specs"])
        return _Plan(
            tuple(values["names"]), specs, bool(values["keep"]), values.get("run", RUN), bool(values.get("done"))
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise DamagedFile(f"{folder / SPECS} cannot be read ({error}); delete {folder} and run again") from error


def is_kept(run: Path) -> bool:
    """Whether a run folder is that of a fleet whose runs are all stored, and was kept beside them."""
    try:
        names = json.loads((run.parent / SPECS).read_bytes())["names"]
        return all(path_of(run.parents[2], name).is_file() for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_folder(store: Path, names: Sequence[str]) -> Path:
    """The work folder in which the runs of these names are trained, together and in this order."""
    folder = _folder_of(store, names)
    try:
        return folder / json.loads((folder / SPECS).read_bytes()).get("run", RUN)
    except (OSError, ValueError):
        return folder / RUN


def _folder_of(store: Path, names: Sequence[str]) -> Path:
    return store / "fleets" / hashlib.sha256(compact(list(names))).hexdigest()[:DIGITS]


def _new(store: Path, specs: tuple[RunSpec, ...], keep: bool, lease_seconds: float) -> Fleet:
    folder = _folder_of(store, [spec.name for spec in specs])
    # A kept fleet whose results were deleted is trained again.
    if folder.exists():
        _remove(folder)
    _describe(folder, specs, keep, RUN)
    lease = take(store, folder, RUN, lease_seconds)
    assert lease is not None, "a folder made under the store's lock is nobody else's"
    return Fleet(folder, specs, keep, lease)


def _taken(folder: Path, plan: _Plan, keep: bool, lease: Lease) -> Fleet:
    """The fleet of a folder that another process left."""
    if lease.run != plan.run:
        _describe(folder, plan.specs, plan.keep, lease.run)
        shutil.rmtree(folder / plan.run, ignore_errors=True)
    return Fleet(folder, plan.specs, keep or plan.keep, lease)


def _describe(folder: Path, specs: Sequence[RunSpec], keep: bool, run: str, is_done: bool = False) -> None:
    from ..store import write_file

    values: dict[str, object] = {"format": SEALED, "keep": keep, "run": run, "names": [spec.name for spec in specs]}
    values["specs"] = [spec.to_json() for spec in specs]
    if is_done:
        values["done"] = True
    write_file(folder / SPECS, sealed_bytes(values), what="the plan of a fleet", replace=True)


def _sweep(store: Path, folder: Path, plan: _Plan, ended: Collection[str]) -> None:
    """Remove the folder of a process that was killed after it had stored its last run."""
    if plan.keep or not all(name in ended for name in plan.names):
        return
    lease = take(store, folder, plan.run, SECONDS)
    if lease is not None:
        _remove(folder)
        lease.release()


def _remove(folder: Path) -> None:
    """The folder is renamed first, because a half-removed folder must not be resumed."""
    hidden = folder.with_name(f".{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
