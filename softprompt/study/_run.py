"""Train the runs that a store lacks, fleet by fleet, and read the stored ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checks import listed, require_numbers
from ..errors import BadInput, Interrupted, RunsFailed, pick
from ..run_layout import is_run
from ._early import check_waiting, missing
from ._failed import FAILED, failed_names, failure_of, forget_failures
from ._fleets import group, run_folder
from ._inputs import refuse_changed
from ._lease import SECONDS
from ._progress import progress_bar
from ._spec import RunSpec
from ._stored import StoredRun, load
from ._work import work

FLEET_SIZE = 4
EXECUTORS = ("processes", "ray")


def read(folder: "Path | str", specs: Sequence[RunSpec], *, whole: bool = True) -> list[StoredRun | None]:
    """The stored runs in the order of `specs`, None where one is missing.

    Args:
        folder: of the store.
        specs: the runs.
        whole: as they were stored, with their curves. Else without curves, and each with the spec that is given here,
            which may have other tags: ten thousand runs are then read in two seconds.

    Raises:
        DamagedFile: a stored run is not as it was written; names its file.
    """
    store, known = Path(folder), listed("specs", specs, RunSpec)
    return [load(store, spec.name, whole=whole, spec=None if whole else spec) for spec in known]


def kept_prompt(folder: "Path | str", run: StoredRun) -> Path:
    """The folder of the prompt of a stored run, which was trained with `keep`.

    Raises:
        BadInput: the prompt was not kept, or was deleted; or the method trains weights and leaves no prompt.
    """
    from ..training import read_plan

    where = run_folder(Path(folder), run.fleet)
    if is_run(where):
        member = where / read_plan(where).prompt_names()[run.fleet.index(run.name)]
        if (member / "prompt").exists():
            return member / "prompt"
        if (member / "weights").exists():
            raise BadInput(
                f"the store {folder} keeps weights of {run.spec.describe()}, not a prompt, in {member / 'weights'}; "
                "`softprompt.load` reads them"
            )
    raise BadInput(
        f"the store {folder} has {run.spec.describe()} without its prompt; "
        f"delete runs/{run.name}.json to train it again"
    )


def run_all(
    specs: Sequence[RunSpec] | RunSpec,
    folder: "Path | str",
    *,
    fleet_size: int = FLEET_SIZE,
    workers: int = 1,
    data_root: "Path | str | None" = None,
    device: str = "auto",
    keep: bool = False,
    progress: bool = True,
    executor: str = "processes",
    ray_address: str | None = None,
    wait: bool = True,
    retry_failed: bool = False,
    lease_seconds: float = SECONDS,
) -> list[StoredRun]:
    """Train the runs that the store lacks, and return all of them in the order of `specs`.

    It may be interrupted or killed at any time and called again, and called by several processes and machines at once:
    no run is trained twice, and the results are those of one process that was never stopped. A run that fails keeps
    its traceback in the store, and all others are trained.

    Args:
        specs: the runs, or one; repeated ones are trained once.
        folder: of the store; made if it is not there.
        fleet_size: most runs that share a pass of the frozen model.
        workers: processes to train with, or actors of Ray; each loads the model for itself.
        data_root: folder with rows; None asks the hub.
        device: "auto", "cpu", "cuda" ...
        keep: leave prompts and records of each fleet in `folder/fleets`.
        progress: show a bar on standard error.
        executor: "processes" on this machine, or "ray": actors of a Ray cluster, one a slot (extra `ray`).
        ray_address: of a running cluster; None starts Ray on this machine.
        wait: wait for the runs that other processes hold; else return without them.
        retry_failed: train runs again that failed before; else they count as failed without a new try.
        lease_seconds: a process that gave no sign of life for so long loses its runs to others.

    Raises:
        SoftPromptError: a run that cannot work, named, before anything is trained.
        RunsFailed: all other runs are stored; the message says where the tracebacks are.
        BadInput: stored runs were made from other files or another model of the same name.
        DamagedFile: a stored run is not as it was written.
        Interrupted: after Ctrl-C; the same call goes on.
    """
    store, specs = Path(folder), listed("specs", specs, RunSpec)
    require_numbers({"fleet_size": fleet_size, "workers": workers}, whole=True)
    require_numbers({"lease_seconds": lease_seconds})
    pick("executor", executor, dict.fromkeys(EXECUTORS))
    # Every mistake that is visible without a model is reported before the first run starts.
    groups = group(specs, fleet_size)
    refuse_changed(run for run in read(store, specs, whole=False) if run)
    check_waiting(store, specs, data_root)
    if retry_failed:
        forget_failures(store, (spec.name for spec in specs))
    options: dict[str, Any] = {"device": device, "keep": keep, "wait": wait, "lease_seconds": lease_seconds}
    options["data_root"] = None if data_root is None else str(data_root)
    try:
        with progress_bar(progress, store, specs) as show:
            if (workers == 1 and executor != "ray") or not missing(store, specs):
                # Also where nothing is missing: a killed process may have left a work folder.
                work(store, groups, show=show, **options)
            elif executor == "ray":
                from ._ray import train_on_ray

                train_on_ray(store, specs, workers, {"fleet_size": fleet_size, **options}, show, ray_address)
            else:
                from ._workers import supervise

                supervise(store, specs, workers, {"fleet_size": fleet_size, **options}, show)
    except (Interrupted, KeyboardInterrupt) as error:
        unique = len({spec.name for spec in specs})
        done = unique - len(missing(store, specs))
        raise Interrupted(
            f"stopped with {done} of {unique} runs stored in {store}; the same command goes on"
        ) from error
    _refuse_failures(store, specs)
    return [run for run in read(store, specs) if run]


def _refuse_failures(store: Path, specs: Sequence[RunSpec]) -> None:
    """Say which runs have no result because they failed.

    Raises:
        RunsFailed: with the first of them.
    """
    names = failed_names(store)
    failed = [spec for spec in missing(store, specs) if spec.name in names]
    if failed:
        count = len({spec.name for spec in specs})
        raise RunsFailed(
            f"{len(failed)} of {count} runs failed, tracebacks are in {store / FAILED}, and --retry-failed tries them "
            f"again; the first: {failure_of(store, failed[0].name)}"
        )
