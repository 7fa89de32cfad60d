"""Short forms of `make chaos`: a killed run, and a failing disk, go on to the bytes of a run that was left alone."""

import shutil
import time

import disk
import pytest
from small_runs import different
from softprompt.errors import DamagedFile
from softprompt.training import resume

import kills
from kit import rewrite


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(work, tmp_path):
    found = kills.campaign(kills.Scenario(work.start, work.go_on), tmp_path, count=4, seed=0)
    assert found["kills"] == 4
    assert (found["different"], found["failed"]) == ([], [])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_failing_call_is_one_line_and_the_run_goes_on_to_the_same_bytes(work, tmp_path):
    found = disk.campaign(kills.Scenario(work.start, work.go_on), tmp_path, most=4)
    assert found["calls"] > 50
    assert (found["failed"], found["bad"]) == (4, [])


def test_a_clock_that_is_set_back_changes_nothing(work, whole, tmp_path, monkeypatch):
    moments = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(moments)))
    work.start(tmp_path / "run")
    assert different(whole, tmp_path / "run") == []


@pytest.fixture
def interrupted(whole, tmp_path):
    """The run as it was after its last checkpoint, before any result."""
    shutil.copytree(whole, tmp_path / "run")
    for result in (tmp_path / "run").glob("*/result.json"):
        result.unlink()
    for name in ("prompt",):
        for folder in (tmp_path / "run").glob(f"*/{name}"):
            shutil.rmtree(folder)
    return tmp_path / "run"


def test_a_changed_learning_rate_refuses_to_resume_and_names_the_file(interrupted, chaos_model):
    plan = interrupted / "run.json"
    plan.write_bytes(plan.read_bytes().replace(b'"lr": 0.2', b'"lr": 0.7'))
    with pytest.raises(DamagedFile, match=r"run\.json' is not as it was written \(its checksum differs\)"):
        resume(interrupted, model=chaos_model)


def test_a_plan_of_an_earlier_version_goes_on_and_says_that_nothing_vouches_for_it(interrupted, chaos_model, caplog):
    rewrite(interrupted / "run.json", lambda plan: plan.update(format=2))
    path = interrupted / "run.json"
    lines = [line for line in path.read_bytes().splitlines() if b'"sha256"' not in line]
    path.write_bytes(b"\n".join(lines))
    caplog.set_level("INFO", "softprompt")
    assert resume(interrupted, model=chaos_model).results
    assert any("has no checksum" in line for line in caplog.messages)


@pytest.mark.parametrize("what", ["checkpoint", "record"])
def test_a_damaged_last_checkpoint_or_a_cut_record_falls_back_to_the_one_before(
    what, interrupted, whole, chaos_model, caplog
):
    if what == "checkpoint":
        path = next(interrupted.glob("checkpoints/step-000004/*.safetensors"))
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path = next(interrupted.glob("ept-star*/metrics.jsonl"))
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    resume(interrupted, model=chaos_model)
    assert any("checkpoint of step 4 is not used" in line and path.name in line for line in caplog.messages)
    assert different(whole, interrupted) == []


def test_a_run_that_is_killed_before_its_last_result_still_has_its_comparison(work, tmp_path, monkeypatch):
    """The comparison with what was not trained is made of the run's answers, which a finished run no longer has."""
    from softprompt.training import _train

    def start(folder):
        return work.start(folder, with_frozen=True)

    start(tmp_path / "whole")
    finish, left = _train.finish_member, [None]

    def killed(*given):
        if not left:
            raise MemoryError
        left.pop()
        return finish(*given)

    monkeypatch.setattr(_train, "finish_member", killed)
    with pytest.raises(MemoryError):
        start(tmp_path / "killed")
    monkeypatch.undo()
    work.go_on(tmp_path / "killed")
    assert (tmp_path / "killed" / "comparison.json").is_file()
    assert different(tmp_path / "whole", tmp_path / "killed") == []


def test_a_file_that_a_killed_process_was_writing_does_not_stay(interrupted, work, whole):
    next(interrupted.glob("ept-star*")).joinpath(".result.json.0123abcd.tmp").write_text("{")
    work.go_on(interrupted)
    assert different(whole, interrupted) == []
