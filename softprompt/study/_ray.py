"""A study on Ray: one actor a slot, which keeps the frozen model and works on the store as any other process does.

Ray starts actors, places them on processors and GPUs, and starts them again when they die. Who trains which runs, and
how a run of a dead actor goes on, is decided by the store alone.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cluster import slot_of, start_ray
from ..errors import BadInput
from ._fleets import Claim, group, held_names
from ._spec import RunSpec
from ._stored import stored_names
from ._work import work

POLL_SECONDS = 0.5
# How often Ray starts an actor again that died.
RESTARTS = 5
MARK = ".seen-by-ray"


def train_on_ray(
    store: Path,
    specs: Sequence[RunSpec],
    workers: int,
    options: Mapping[str, Any],
    show: Callable[[Claim], None],
    address: str | None = None,
) -> None:
    """Train with actors; the first error ends all of them.

    Args:
        store: the folder of the store; every machine of the cluster has to see it at this path.
        specs: the runs.
        workers: how many actors; each has one GPU where the cluster has any, else one processor.
        options: fleet_size, and the options of `work`.
        show: called from time to time.
        address: of a running cluster; None starts Ray on this machine.

    Raises:
        BadInput: Ray is not installed, or a machine does not see the store.
        SoftPromptError: with the message of the actor that failed.
    """
    ray = _ray()
    job = {"store": str(store.absolute()), "specs": [spec.to_json() for spec in specs], **options}
    store.mkdir(parents=True, exist_ok=True)
    try:
        (store / MARK).touch()
        start_ray(ray, workers, address)
        given = ray.put(job)
        actor = ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, **slot_of(ray))(Slot)
        waiting = [slot.work.remote(given) for slot in [actor.remote() for _ in range(workers)]]
        while waiting:
            ended, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            for error in ray.get(ended):
                if error is not None:
                    raise error
            held = held_names(store) - stored_names(store)
            show(Claim(None, frozenset(held & {spec.name for spec in specs})))
    finally:
        ray.shutdown()
        (store / MARK).unlink(missing_ok=True)


class Slot:
    """What an actor runs."""

    def work(self, job: Mapping[str, Any]) -> Exception | None:
        """Work on the store until nothing is left; the error that ended it."""
        from ._workers import OPTIONS

        store = Path(job["store"])
        if not (store / MARK).exists():
            return BadInput(f"a machine of the cluster does not see {store}; give a --store that all machines share")
        groups = group([RunSpec.from_json(spec) for spec in job["specs"]], job["fleet_size"])
        try:
            work(store, groups, **{name: job[name] for name in OPTIONS})
        except Exception as error:
            return error
        return None


def _ray() -> Any:
    """Ray, untyped: it types the options of actors only where they are written out."""
    try:
        import ray
    except ImportError as error:
        raise BadInput('--executor=ray needs Ray; pip install "softprompt[ray]"') from error
    return ray
