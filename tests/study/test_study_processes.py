"""Deaths in the middle of a study, and several processes at one."""

import dataclasses
import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from softprompt import store as store_module
from softprompt import training
from softprompt.prompts.methods import METHODS
from softprompt.settings import TrainSettings
from softprompt.study import RunsFailed, RunSpec, grid
from softprompt.study import _fleets as fleets
from softprompt.study import _lease as lease_module
from softprompt.study import _work as run_module
from softprompt.study import _workers as workers
from softprompt.study._fleets import claim, finish, give_up, group
from softprompt.study._stored import path_of
from softprompt.training import Interrupted, read_record
from softprompt.training._loop import Loop

from study_kit import contents, quietly


class Killed(BaseException):
    """Ends a process as nothing that it could handle."""


class TestKills:
    def test_a_killed_process_is_gone_on_with_to_the_same_bytes(self, specs, tmp_path):
        specs = [dataclasses.replace(s, settings=TrainSettings(steps=20, eval_every=2, batch_size=4)) for s in specs]
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        quietly(specs, whole)
        process = worker(specs, killed, dies=27)
        assert process.wait() == -signal.SIGKILL
        process.communicate()
        assert len(list((killed / "runs").glob("*.json"))) == 4
        assert len(list(killed.glob("fleets/*/run/checkpoints/step-*"))) > 0
        quietly(specs, killed)
        assert contents(whole) == contents(killed)
        assert list((killed / "fleets").iterdir()) == []

    @pytest.mark.parametrize("stored", [0, 1, 3, 4])
    def test_a_death_while_runs_are_stored_loses_and_repeats_nothing(self, stored, specs, tmp_path, monkeypatch):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        quietly(specs[:4], whole)
        write, count = store_module.write_file, itertools.count()

        def dying(target, content, *, what, replace=False):
            if target.parent.name == "runs" and next(count) == stored:
                raise Killed
            return write(target, content, what=what, replace=replace)

        def dead(*arguments):
            raise Killed

        monkeypatch.setattr(store_module, "write_file", dying)
        monkeypatch.setattr(run_module, "finish", dead)
        with pytest.raises(Killed):
            quietly(specs[:4], killed)
        assert len(list((killed / "runs").glob("*.json"))) == stored
        monkeypatch.undo()
        monkeypatch.setattr(Loop, "_optimize", lambda loop: pytest.fail("trained again"))
        quietly(specs[:4], killed)
        assert contents(whole) == contents(killed)
        assert list((killed / "fleets").iterdir()) == []

    def test_what_a_death_left_half_made_or_half_removed_is_cleared_away(self, specs, tmp_path):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        quietly(specs[:2], whole)
        found = claim(killed, group(specs[:2], 4))
        assert found.fleet is not None
        found.fleet.lease.lock.release()
        # Killed before the plan was written, while a folder was made, and while one was removed.
        (found.fleet.run).mkdir()
        (found.fleet.run / ".run.json.abcdef01.tmp").write_text("{")
        (killed / "fleets" / "made").mkdir()
        (killed / "fleets" / ".removed" / "run").mkdir(parents=True)
        quietly(specs[:2], killed)
        assert contents(whole) == contents(killed)
        assert list((killed / "fleets").iterdir()) == []

    def test_a_fleet_that_was_named_by_other_defaults_is_not_gone_on_with(self, specs, tmp_path, monkeypatch):
        plain = [dataclasses.replace(spec, prompt=dataclasses.replace(spec.prompt, lr=None)) for spec in specs[:1]]
        left = claim(tmp_path, group(plain, 4)).fleet
        assert left is not None
        left.lease.lock.release()
        monkeypatch.setitem(METHODS, "ept-star", dataclasses.replace(METHODS["ept-star"], lr=0.123))
        fresh = [dataclasses.replace(spec) for spec in plain]
        fleets._plan.cache_clear()
        found = claim(tmp_path, group(fresh, 4)).fleet
        assert found is not None
        assert found.folder != left.folder
        found.lease.lock.release()

    def test_an_interrupted_study_says_how_to_go_on_and_does(self, specs, tmp_path, monkeypatch):
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        quietly(specs, whole)
        optimize, steps = Loop._optimize, itertools.count(1)

        def interrupted(loop):
            if next(steps) == 7:
                os.kill(os.getpid(), signal.SIGINT)
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", interrupted)
        with pytest.raises(Interrupted, match=r"stopped with 4 of 8 runs stored in .*; the same command goes on"):
            quietly(specs, stopped)
        quietly(specs, stopped)
        assert next(steps) == 9, "of the second fleet's four steps one was left"
        assert contents(whole) == contents(stopped)


# A process that kills itself before an optimiser step: where it dies is then no matter of the machine's load.
DYING = """
import os, signal, sys
from softprompt.study import _workers
from softprompt.training._loop import Loop

optimize, left = Loop._optimize, iter(range(int(sys.argv[1])))

def dying(loop):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return optimize(loop)

Loop._optimize = dying
sys.exit(_workers.main())
"""


def worker(specs, store, *, dies: int | None = None, **options) -> "subprocess.Popen[bytes]":
    """A process that trains these runs; with `dies`, until it has made so many steps over all its fleets."""
    job = {"store": str(store), "specs": [spec.to_json() for spec in specs], "fleet_size": 4, "data_root": None}
    job |= {"device": "cpu", "keep": False, "wait": True, "lease_seconds": 120, **options}
    program = ["-m", "softprompt.study._workers"] if dies is None else ["-c", DYING, str(dies)]
    process = subprocess.Popen([sys.executable, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    process.stdin = None
    return process


class Forked(subprocess.Popen[bytes]):
    """A worker that is a copy of this process, so that nothing has to be imported again; with `dies` as in `worker`."""

    # Popen's own constructor is not called, and what it would clean up is not there.
    _child_created = False

    def __init__(self, job: Any, dies: int | None):
        self.stdout, self.returncode = io.BytesIO(), None
        self.pid = os.fork()
        if self.pid == 0:
            # The threads of torch are not copied, and would be waited for.
            torch.set_num_threads(1)
            if dies is not None:
                optimize, left = Loop._optimize, iter(range(dies))
                Loop._optimize = lambda self: optimize(self) if next(left, None) is not None else kill_this_process()
            groups = group([RunSpec.from_json(spec) for spec in job["specs"]], job["fleet_size"])
            try:
                run_module.work(Path(job["store"]), groups, **{name: job[name] for name in workers.OPTIONS})
            finally:
                os._exit(0)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        while self.poll() is None:
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def kill_this_process() -> typing.NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def show_for_a_lease(monkeypatch: pytest.MonkeyPatch, seen: list[bytes | OSError]) -> None:
    """Let the next reads of a lease show or raise these, one after the other and without a pause."""
    read = Path.read_bytes

    def shown(path: Path) -> bytes:
        found = seen.pop(0) if seen and path.name == lease_module.LEASE else read(path)
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(Path, "read_bytes", shown)
    monkeypatch.setattr(lease_module, "PAUSE_SECONDS", 0.0)


class TestSeveralProcesses:
    def test_a_fleet_is_claimed_once_and_left_to_who_holds_it(self, specs, tmp_path):
        groups = group(specs, 4)
        first, second = claim(tmp_path, groups), claim(tmp_path, groups)
        third = claim(tmp_path, groups)
        assert first.fleet is not None
        assert second.fleet is not None
        assert [first.fleet.specs, second.fleet.specs] == groups
        assert second.busy == {spec.name for spec in specs[:4]}
        assert third.fleet is None
        assert third.busy == {spec.name for spec in specs}
        give_up(tmp_path, first.fleet)
        again = claim(tmp_path, groups)
        assert again.fleet is not None
        assert again.fleet.specs == groups[0]
        give_up(tmp_path, again.fleet)
        give_up(tmp_path, second.fleet)

    def test_another_study_leaves_the_runs_that_a_fleet_holds(self, specs, tmp_path):
        held = claim(tmp_path, group(specs[:2], 4)).fleet
        other = claim(tmp_path, group(specs[1:4], 4))
        assert held is not None
        assert other.fleet is not None
        assert other.fleet.specs == tuple(specs[2:4])
        assert other.busy == {specs[1].name}
        for fleet in (held, other.fleet):
            finish(tmp_path, fleet)
        assert list((tmp_path / "fleets").iterdir()) == []

    def test_four_processes_of_which_two_are_killed_train_forty_runs_once_each(
        self, task, model, tmp_path, monkeypatch
    ):
        axes = {"task": task, "model": model, "eval_every": 1, "batch_size": 4}
        specs = grid(**axes, steps=2, method=["ept-star", "prompt-tuning"], lr=[0.1, 0.3], seed=range(10))
        np.save(tmp_path / "wide.npy", np.ones((10, 3), dtype=np.float32))
        (bad,) = grid(**axes, steps=3, init=f"file:{tmp_path / 'wide.npy'}")
        serial, shared = tmp_path / "serial", tmp_path / "shared"
        quietly(specs, serial)
        started = []

        def two_die(job, environment):
            started.append(job)
            return Forked(job, {1: 1, 2: 0}.get(len(started)))

        monkeypatch.setattr(workers, "_start", two_die)
        with pytest.raises(RunsFailed, match=rf"1 of 41 runs failed, .*; the first: run {bad.name} \("):
            quietly([bad, *specs], shared, workers=4, keep=True)
        assert len(started) == 6, "who is killed is replaced"
        assert contents(serial) == contents(shared)
        records = list(shared.glob("fleets/*/run*/timing.jsonl"))
        assert len(records) == 10
        assert all([row["step"] for row in read_record(record)] == [1, 2] for record in records)

    def test_a_process_that_stands_still_loses_its_runs_and_cannot_store_them(self, specs, tmp_path, caplog):
        store, groups = tmp_path / "store", group(specs[:2], 4)
        stalled = claim(store, groups, lease_seconds=0.0).fleet
        assert stalled is not None
        models = run_module.Models(store, "cpu")
        os.utime(stalled.folder / "lease.json", (0, 0))
        taken = claim(store, groups).fleet
        assert taken is not None
        assert taken.run != stalled.run
        (theirs, ours) = (run_module._attempt(store, fleet, models, None) for fleet in (taken, stalled))
        assert theirs
        assert ours, "there is nothing left to do"
        assert "another process has taken over" in caplog.text
        assert contents(store).keys() == {path_of(store, spec.name).name for spec in specs[:2]}
        assert not list((store / "failed").glob("*"))

    def test_a_process_that_wakes_up_with_results_throws_them_away(self, specs, tmp_path, monkeypatch):
        store, groups, train = tmp_path / "store", group(specs[:1], 4), training.train

        def stalling(*arguments, **options):
            run = train(*arguments, **options)
            monkeypatch.undo()
            os.utime(next(store.glob("fleets/*/lease.json")), (0, 0))
            other = claim(store, groups).fleet
            assert other is not None
            assert list(read_record(other.run / "timing.jsonl")), "the earlier work is copied"
            path_of(store, specs[0].name).parent.mkdir()
            path_of(store, specs[0].name).write_text("of the new owner")
            return run

        monkeypatch.setattr(training, "train", stalling)
        run_module.work(store, groups, data_root=None, device="cpu", keep=False, wait=False)
        assert path_of(store, specs[0].name).read_text() == "of the new owner"

    def test_a_lease_that_cannot_be_read_for_a_moment_is_renewed_until_another_stands_there(
        self, specs, tmp_path, monkeypatch
    ):
        fleet = claim(tmp_path, group(specs[:1], 4), lease_seconds=0.06).fleet
        assert fleet is not None
        os.utime(fleet.folder / "lease.json", (0, 0))
        before, read = lease_module._read(fleet.folder), [{"token": "of another"}, None]
        assert before is not None
        read += [before, None]
        monkeypatch.setattr(lease_module, "_read", lambda folder: read.pop())
        with fleet.lease.renewed():
            (renewing,) = (thread for thread in threading.enumerate() if thread.name == "lease")
            renewing.join(60)
            assert not renewing.is_alive()
            assert read == []
        monkeypatch.undo()
        assert (fleet.folder / "lease.json").stat().st_mtime > 0
        give_up(tmp_path, fleet)

    @pytest.mark.parametrize(
        "seen", [OSError(errno.ESTALE, "stale"), OSError(errno.EIO, "no answer"), b"", b'{"tok', b"[]"]
    )
    def test_results_are_stored_where_the_lease_cannot_be_read_for_a_moment(self, seen, specs, tmp_path, monkeypatch):
        left, train = [], training.train
        show_for_a_lease(monkeypatch, left)

        def failing_next(*arguments, **options):
            run = train(*arguments, **options)
            left.extend([seen, seen])
            return run

        monkeypatch.setattr(training, "train", failing_next)
        quietly(specs[:1], tmp_path)
        assert left == []
        assert contents(tmp_path).keys() == {path_of(tmp_path, specs[0].name).name}
        assert list((tmp_path / "fleets").iterdir()) == []

    def test_a_lease_is_lost_at_once_where_it_is_gone_or_anothers_and_after_some_reads_where_none_succeeds(
        self, specs, tmp_path, monkeypatch
    ):
        fleet = claim(tmp_path, group(specs[:1], 4)).fleet
        assert fleet is not None
        lease = fleet.folder / "lease.json"
        theirs = json.dumps({**json.loads(lease.read_bytes()), "token": "of another"}).encode()
        gone = [FileNotFoundError(), NotADirectoryError()]
        for seen in (
            [gone[0]],
            [gone[1]],
            [theirs],
            [b"", theirs],
            [OSError(errno.EIO, "no answer")] * lease_module.READS,
        ):
            left = list(seen)
            with monkeypatch.context() as patched:
                show_for_a_lease(patched, left)
                assert not fleet.lease.is_ours
            assert left == []
        assert fleet.lease.is_ours
        give_up(tmp_path, fleet)

    @pytest.mark.parametrize("seen", [b"", b'{"tok', b"[]"])
    def test_a_lease_that_cannot_be_read_is_taken_when_it_would_have_ended(self, seen, specs, tmp_path):
        groups = group(specs[:1], 4)
        first = claim(tmp_path, groups).fleet
        assert first is not None
        first.lease.lock.release()
        lease = first.folder / "lease.json"
        lease.write_bytes(seen)
        assert claim(tmp_path, groups).fleet is None, "it may be another machine's"
        os.utime(lease, (0, 0))
        second = claim(tmp_path, groups).fleet
        assert second is not None
        give_up(tmp_path, second)

    def test_another_machine_waits_for_the_end_of_a_lease(self, specs, tmp_path, monkeypatch):
        groups = group(specs[:1], 4)
        first = claim(tmp_path, groups).fleet
        assert first is not None
        monkeypatch.setattr(lease_module, "machine", lambda: "elsewhere")
        first.lease.lock.release()
        assert claim(tmp_path, groups).fleet is None, "a lock that seems free may be one that does not reach"
        os.utime(first.folder / "lease.json", (0, 0))
        second = claim(tmp_path, groups).fleet
        assert second is not None
        give_up(tmp_path, second)
        give_up(tmp_path, first)

    def test_a_fleet_that_kills_its_processes_is_given_up_after_three(self, specs, tmp_path):
        store, groups = tmp_path / "store", group(specs[:1], 4)
        for _ in range(3):
            fleet = claim(store, groups).fleet
            assert fleet is not None
            fleet.lease.lock.release()
        with pytest.raises(RunsFailed, match="3 processes in a row died"):
            quietly(specs[:1], store)
