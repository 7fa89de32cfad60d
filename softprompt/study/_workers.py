"""Several processes on one store: started, watched, stopped together. `python -m softprompt.study._workers` is one."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..documents import compact
from ..errors import SoftPromptError
from ._failed import failed_names
from ._fleets import Claim, group, held_names
from ._spec import RunSpec
from ._stored import path_of, stored_names
from ._work import work

log = logging.getLogger("softprompt")

# What a worker is told beside the store, the runs and how they are grouped.
OPTIONS = ("data_root", "device", "keep", "wait", "lease_seconds")
# Killed workers that are replaced, for each worker that was asked for.
MOST_REPLACED = 5
POLL_SECONDS = 0.2
INTERRUPTED = 130


def supervise(
    store: Path,
    specs: Sequence[RunSpec],
    workers: int,
    options: Mapping[str, Any],
    show: Callable[[Claim], None],
) -> None:
    """Train with `workers` processes; the first error ends all of them.

    A worker that is killed is replaced while there is work left, because the next one goes on with its fleet.

    Args:
        store: the folder of the store.
        specs: the runs.
        workers: how many processes.
        options: fleet_size, and the options of `work`.
        show: called from time to time.

    Raises:
        SoftPromptError: with the message of the worker that failed.
    """
    job = {"store": str(store), "specs": [spec.to_json() for spec in specs], **options}
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    running = [_start(job, environment) for _ in range(workers)]
    spare = MOST_REPLACED * workers
    try:
        while True:
            for place, process in enumerate(running):
                if process.poll() and not (process.returncode < 0 and spare and _left(store, specs)):
                    raise _failure(process)
                if process.returncode:
                    log.warning("a worker was killed by signal %d; another one takes its place", -process.returncode)
                    _closed(process)
                    running[place], spare = _start(job, environment), spare - 1
            if all(process.returncode == 0 for process in running):
                return
            held = {name for name in held_names(store) if not path_of(store, name).exists()}
            show(Claim(None, frozenset(held & {spec.name for spec in specs})))
            time.sleep(POLL_SECONDS)
    finally:
        for process in running:
            # With SIGTERM training saves a checkpoint, and a process that is still importing ends.
            process.terminate()
        for process in running:
            process.wait()
            _closed(process)


def _left(store: Path, specs: Sequence[RunSpec]) -> bool:
    """Whether runs are neither stored nor failed."""
    ended = stored_names(store) | failed_names(store)
    return any(spec.name not in ended for spec in specs)


def _closed(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdout is not None
    process.stdout.close()


def _start(job: Mapping[str, Any], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with tempfile.TemporaryFile() as given:
        given.write(compact(job))
        given.seek(0)
        # Each worker has its own session, so that Ctrl-C reaches only this process, which stops each worker once.
        return subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=given,
            stdout=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )


def _failure(process: "subprocess.Popen[bytes]") -> BaseException:
    assert process.stdout is not None
    message = process.stdout.read().decode().strip()
    if process.returncode == INTERRUPTED:
        return KeyboardInterrupt()
    return SoftPromptError(message or f"a worker ended with exit code {process.returncode}; its error is above")


def main() -> int:
    """Work on the job on standard input. An error that the user can correct is printed in one line."""
    job = json.load(sys.stdin)
    specs = [RunSpec.from_json(spec) for spec in job["specs"]]
    parent = os.getppid()
    options = {name: job[name] for name in OPTIONS}
    try:
        # A worker whose parent was killed ends after its fleet.
        work(Path(job["store"]), group(specs, job["fleet_size"]), **options, is_wanted=lambda: os.getppid() == parent)
    except SoftPromptError as error:
        print(error.message)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
