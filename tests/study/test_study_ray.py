"""A study on Ray: a real cluster of this machine, whose actors die."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from softprompt.cli import main
from softprompt.errors import BadInput
from softprompt.study import _ray as on_ray
from softprompt.study import grid, missing, run_all

from kit import review_task

# A cluster takes half a minute to start, and a third of a gigabyte.
WANTED = os.environ.get("SOFTPROMPT_RAY_TESTS") == "1"


def test_without_ray_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    specs = grid(task="lab/color", model="lab-t5", steps=1)
    with pytest.raises(BadInput, match=r"executor='ray' needs Ray; pip install \"softprompt\[ray\]\""):
        run_all(specs, tmp_path / "store", executor="ray", progress=False)
    assert not list((tmp_path / "store").rglob("*")), "nothing is half written"


def test_an_executor_that_does_not_exist_is_refused_with_the_nearest(tmp_path, capsys):
    (tmp_path / "study.toml").write_text('[[runs]]\ntask = "lab/color"\nmodel = "lab-t5"\n')
    arguments = ["study", "run", str(tmp_path / "study.toml"), "--store", str(tmp_path / "store")]
    assert main([*arguments, "--executor", "rey"]) == 2
    assert "Did you mean 'ray'" in capsys.readouterr().err


def test_a_start_of_ray_that_fails_leaves_no_mark(tmp_path, monkeypatch):
    def failing(*arguments):
        assert (tmp_path / on_ray.MARK).exists()
        raise BadInput("no cluster there")

    monkeypatch.setattr(on_ray, "_ray", lambda: types.SimpleNamespace(shutdown=lambda: None))
    monkeypatch.setattr(on_ray, "start_ray", failing)
    with pytest.raises(BadInput, match="no cluster there"):
        on_ray.train_on_ray(tmp_path, [], 1, {}, lambda claimed: None)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_does_not_see_the_store_is_told_so(tmp_path):
    job = {"store": str(tmp_path / "nowhere"), "specs": [], "fleet_size": 1}
    error = on_ray.Slot().work(job)
    assert isinstance(error, BadInput)
    assert "give a --store that all machines share" in error.message


def test_a_slot_works_on_the_store_and_returns_what_ended_it(tmp_path, tiny_t5, save_tiny):
    store = tmp_path / "store"
    axes = {"model": str(save_tiny(tmp_path / "t5", *tiny_t5())), "steps": 2, "eval_every": 2, "batch_size": 4}
    specs = grid(task=review_task(tmp_path / "data"), seed=[0, 1], **axes)
    job = {"store": str(store), "specs": [spec.to_json() for spec in specs], "fleet_size": 2, "data_root": None}
    job |= {"device": "cpu", "keep": False, "wait": True, "lease_seconds": 60.0}
    store.mkdir()
    (store / on_ray.MARK).touch()
    assert on_ray.Slot().work(job) is None
    assert missing(store, specs) == []


KILLING = """
import os, signal, sys, threading, time
from pathlib import Path
from softprompt.study import grid, run_all
from softprompt.study._lease import owner

def kill(store):
    # The first owner of a fleet that has saved a step is killed.
    while True:
        for run in store.glob("fleets/*/run/checkpoints/step-*"):
            held = owner(run.parents[2])
            if held:
                print("killed", held["pid"])
                os.kill(held["pid"], signal.SIGKILL)
                return
        time.sleep(0.002)

store = Path(sys.argv[1])
threading.Thread(target=kill, args=(store,), daemon=True).start()
specs = grid(task="lab/color", model="lab-t5-small", steps=30, eval_every=1, eval_rows=8, batch_size=4, seed=range(8))
runs = run_all(specs, store, executor="ray", workers=2, fleet_size=2, progress=False, device="cpu")
print(len(runs), "runs")
"""


@pytest.mark.skipif(not WANTED, reason="starts a Ray cluster: set SOFTPROMPT_RAY_TESTS=1")
def test_actors_share_a_study_and_go_on_after_one_is_killed(tmp_path: Path):
    pytest.importorskip("ray", reason='Ray is not installed: pip install "softprompt[ray]"')
    # Ray makes its workers nice: beside other work they would hardly compute.
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    done = subprocess.run(
        [sys.executable, "-c", KILLING, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "killed" in done.stdout
    assert done.stdout.endswith("8 runs\n")
    assert not list((tmp_path / "fleets").iterdir())
