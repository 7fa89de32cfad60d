"""Train the runs that a store lacks, fleet by fleet, and read the stored ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..checks import listed, require_numbers
from ..errors import BadInput
from ._early import check_waiting, missing
from ._fleets import group, run_folder
from ._inputs import refuse_changed
from ._progress import progress_bar
from ._spec import RunSpec
from ._stored import StoredRun, load
from ._work import work

if TYPE_CHECKING:
    pass

FLEET_SIZE = 4


def read(folder: "Path | str", specs: Sequence[RunSpec]) -> list[StoredRun | None]:
    """The stored runs in the order of `specs`, None where one is missing.

    Raises:
        DamagedFile: a stored run is not as it was written; names its file.
    """
    return [load(Path(folder), spec.name) for spec in listed("specs", specs, RunSpec)]


def kept_prompt(folder: "Path | str", run: StoredRun) -> Path:
    """The folder of the prompt of a stored run, which was trained with `keep`.

    Raises:
        BadInput: the prompt was not kept, or was deleted; or the method trains weights and leaves no prompt.
    """
    from ..training import read_plan

    where = run_folder(Path(folder), run.fleet)
    if (where / "run.json").is_file():
        member = where / read_plan(where).prompt_names()[run.fleet.index(run.name)]
        if (member / "prompt").exists():
            return member / "prompt"
        if (member / "weights").exists():
            raise BadInput(
                f"the store {folder} keeps weights of {run.spec.describe()}, not a prompt, in {member / 'weights'}; "
                "`softprompt.load_tuned` reads them"
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
) -> list[StoredRun]:
    """Train the runs that the store lacks, and return all of them in the order of `specs`.

    It may be interrupted or killed at any time and called again, and called by several processes at once: no run is
    trained twice, and the results are those of one process that was never stopped. Runs that another process holds are
    waited for.

    Args:
        specs: the runs, or one; repeated ones are trained once.
        folder: of the store; made if it is not there.
        fleet_size: most runs that share a pass of the frozen model.
        workers: processes to train with; each loads the model for itself.
        data_root: folder with rows; None asks the hub.
        device: "auto", "cpu", "cuda" ...
        keep: leave prompts and records of each fleet in `folder/fleets`.
        progress: show a bar on standard error.

    Raises:
        SoftPromptError: a run that cannot work, named; what was stored before stays.
        BadInput: stored runs were made from other files or another model of the same name.
        DamagedFile: a stored run is not as it was written.
        Interrupted: after Ctrl-C; the same call goes on.
    """
    from ..training import Interrupted

    store, specs = Path(folder), listed("specs", specs, RunSpec)
    require_numbers({"fleet_size": fleet_size, "workers": workers}, whole=True)
    # Every mistake that is visible without a model is reported before the first run starts.
    groups = group(specs, fleet_size)
    refuse_changed(run for run in read(store, specs) if run)
    check_waiting(store, specs, data_root)
    try:
        with progress_bar(progress, store, specs) as show:
            if workers == 1 or not missing(store, specs):
                work(store, groups, data_root=data_root, device=device, keep=keep, show=show)
            else:
                from ._workers import supervise

                options = {
                    "fleet_size": fleet_size,
                    "data_root": data_root and str(data_root),
                    "device": device,
                    "keep": keep,
                }
                supervise(store, specs, workers, options, show)
    except (Interrupted, KeyboardInterrupt) as error:
        unique = len({spec.name for spec in specs})
        done = unique - len(missing(store, specs))
        raise Interrupted(
            f"stopped with {done} of {unique} runs stored in {store}; the same command goes on"
        ) from error
    stored = read(store, specs)
    assert all(stored), "every run was stored or an error raised"
    return [run for run in stored if run]
