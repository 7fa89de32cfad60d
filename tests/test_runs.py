"""The folder of a run and its records: nothing is left of what failed, nothing is lost of what was trained."""

import dataclasses
import functools
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import softprompt.store._folder as atomic
from filelock import FileLock
from softprompt.backbones import from_model
from softprompt.errors import BadInput, DamagedFile, OutOfMemory, RunExists, StorageFailure
from softprompt.inference.evaluate import evaluate
from softprompt.interop.stored import load
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.study import RunSpec, run_all
from softprompt.training import Interrupted, damage, read_plan, read_results, resume, train
from softprompt.training import _train as train_module
from softprompt.training._finish import constant_score
from softprompt.training._folder import LOCK, alone_in, is_held
from softprompt.training._loop import Loop
from softprompt.training._records import Record, damaged_lines, read_record, recorded_steps

from kit import at_step, fails, file_limit, review_task, same_files

PROMPT = PromptSettings(options={"prompt_length": 2})
RESTARTED = PromptSettings(options={"prompt_length": 2}, restarts=2, restart_steps=2)
SETTINGS = TrainSettings(steps=4, eval_every=2, batch_size=4, eval_rows=4)
NAME = "prompt-tuning-seed0"
TIMES = ("timing.jsonl", "state.json", "manifest.json")


@pytest.fixture(scope="module")
def backbone(tiny_t5):
    return from_model(*tiny_t5(), name="tiny")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("rows") / "data")


def test_a_sorted_validation_file_is_refused_where_its_first_rows_would_choose(backbone, tmp_path):
    task = review_task(tmp_path / "data")
    path = Path(*task.source.paths("validation"))
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *sorted(rows * 2, key=lambda row: row.rpartition(",")[2])]) + "\n")
    begin = functools.partial(train, task, backbone, prompts=[PROMPT])
    with pytest.raises(
        BadInput,
        match=r"the first 16 validation rows .* all have the label .*; raise `eval_rows` or leave",
    ):
        begin(settings=dataclasses.replace(SETTINGS, eval_rows=16), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for enough in (17, None):
        begin(settings=dataclasses.replace(SETTINGS, eval_rows=enough), output=tmp_path / str(enough))


def test_a_prompt_may_be_scored_on_some_test_rows_the_same_that_evaluate_draws(task, backbone, tmp_path):
    some = dataclasses.replace(SETTINGS, test_rows=5)
    run = train(task, backbone, prompts=[PROMPT], settings=some, output=tmp_path / "run", with_frozen=True)
    (result,) = run.results
    prompt = load(tmp_path / "run" / NAME)
    drawn = evaluate(prompt, model=backbone, test_rows=5)
    assert len(drawn.gold) == 5
    assert drawn.of is not None
    assert result.metrics["test"] == {**drawn.metrics, "invalid": drawn.invalid}
    assert result.majority == constant_score(task, drawn.gold)
    assert run.comparison is not None
    assert run.comparison.of == 5


@pytest.fixture
def start(task, backbone):
    def go(folder, prompt=PROMPT, settings=SETTINGS, *more):
        return train(task, backbone, prompts=[prompt, *more], settings=settings, output=folder)

    return go


class TestNothingIsLeft:
    def test_of_more_shots_than_rows_and_the_corrected_call_works(self, start, tmp_path):
        with pytest.raises(BadInput, match="lower `shots`"):
            start(tmp_path / "runs" / "x", settings=TrainSettings(steps=1, shots=100_000))
        assert list(tmp_path.iterdir()) == []
        assert start(tmp_path / "runs" / "x", settings=TrainSettings(steps=1, shots=8)).results

    @pytest.mark.parametrize("where", ["_fit", "_optimize"])
    def test_of_a_run_without_room_for_its_first_step(self, where, start, tmp_path, monkeypatch):
        folder = tmp_path / "made-before"
        folder.mkdir()
        monkeypatch.setattr(Loop, where, fails(OutOfMemory("no room")))
        with pytest.raises(OutOfMemory):
            start(folder)
        assert list(folder.iterdir()) == []

    def test_and_what_a_process_killed_before_its_plan_has_left_is_no_run(self, start, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".lock").touch()
        (tmp_path / "run" / ".run.json.0123abcd.tmp").write_text("{")
        assert start(tmp_path / "run").results
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "notes.txt").touch()
        with pytest.raises(RunExists, match="not empty"):
            start(tmp_path / "other")


class TestTwoProcesses:
    def test_one_that_only_looks_whether_the_other_trains_does_not_stop_it(self, tmp_path, monkeypatch):
        looks = FileLock(tmp_path / LOCK)
        looks.acquire()
        monkeypatch.setattr("time.sleep", lambda seconds: looks.release())
        with alone_in(tmp_path):
            assert is_held(tmp_path)
        assert not is_held(tmp_path)

    def test_in_one_folder_leave_the_plan_of_the_one_that_trains(self, start, tmp_path, monkeypatch):
        """The second comes while the first writes its plan."""
        write, refused = atomic._write, []

        def interrupted(path, content):
            if path.name.startswith(".run.json") and not refused:
                with pytest.raises(RunExists, match="another process") as error:
                    start(tmp_path / "run", PromptSettings(lr=0.7))
                refused.append(error)
            write(path, content)

        monkeypatch.setattr(atomic, "_write", interrupted)
        start(tmp_path / "run", PromptSettings(lr=0.2))
        assert refused
        assert [prompt.lr for prompt in read_plan(tmp_path / "run").prompts] == [0.2]

    def test_where_the_first_has_ended_leave_its_plan(self, start, tmp_path, monkeypatch):
        """The second looked at the folder before there was a run."""
        prepare = train_module.prepare

        def meanwhile(*arguments):
            monkeypatch.setattr(train_module, "prepare", prepare)
            start(tmp_path / "run", PromptSettings(lr=0.2))
            return prepare(*arguments)

        monkeypatch.setattr(train_module, "prepare", meanwhile)
        with pytest.raises(RunExists, match="already holds a run"):
            start(tmp_path / "run", PromptSettings(lr=0.7))
        assert [prompt.lr for prompt in read_plan(tmp_path / "run").prompts] == [0.2]


class TestRecords:
    def test_a_row_can_be_read_as_soon_as_it_is_written(self, tmp_path):
        record = Record(tmp_path / "metrics.jsonl")
        record.write({"step": 1, "loss": 0.5})
        assert list(read_record(record.path)) == [{"step": 1, "loss": 0.5}]
        record.close()

    def test_every_step_of_a_run_can_be_read_before_the_next(self, start, tmp_path, monkeypatch):
        seen, record = [], tmp_path / "run" / NAME / "metrics.jsonl"
        monkeypatch.setattr(Loop, "_optimize", at_step(4, lambda: seen.append(recorded_steps(record))))
        start(tmp_path / "run")
        assert seen == [3]

    @pytest.mark.parametrize(
        "line",
        [b'{"step": 2, "loss": \xff0.5}', b'{"step": 2, "loss": 0.5', b'{"stap": 2, "loss": 0.5}', b"2", b"[" * 10_000,
         b'{"step": 2, "los": 0.5}', b'{"step": 2, "loss": "0.5"}', b""],
    )  # fmt: skip
    def test_a_line_that_is_no_row_is_left_out_and_told(self, line, tmp_path):
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(b'{"step": 1, "loss": 0.7}\n' + line + b'\n{"step": 3, "loss": 0.4}\n{"step": 4, "lo')
        assert [row["step"] for row in read_record(path)] == [1, 3]
        assert damaged_lines(path) == [2]
        assert recorded_steps(path) == 3


@pytest.fixture(scope="module")
def unfinished(task, backbone, tmp_path_factory):
    """A whole run with restarts, and the same run that was killed after its last checkpoint."""
    place = tmp_path_factory.mktemp("unfinished")
    train(task, backbone, prompts=[RESTARTED], settings=SETTINGS, output=place / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "finish_member", fails(MemoryError()))
        with pytest.raises(MemoryError):
            train(task, backbone, prompts=[RESTARTED], settings=SETTINGS, output=place / "killed")
    return place


def test_what_a_killed_process_was_writing_is_gone_when_the_run_goes_on(unfinished, backbone, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(unfinished / "killed", run)
    (run / NAME / ".result.json.0123abcd.tmp").write_text("{")
    (run / "checkpoints" / ".step-000006.0123abcd.tmp").mkdir()
    resume(run, model=backbone)
    assert same_files(unfinished / "whole", run, ignore=TIMES)
    assert list(run.rglob("*.tmp")) == []


class TestDamagedRecords:
    @pytest.mark.parametrize("name", ["timing.jsonl", f"{NAME}/metrics.jsonl", f"{NAME}/restarts/1.jsonl"])
    def test_one_bad_byte_is_told_at_the_start_and_costs_nothing_at_the_end(
        self, name, unfinished, backbone, tmp_path, caplog
    ):
        shutil.copytree(unfinished / "killed", tmp_path / "run")
        content = (tmp_path / "run" / name).read_bytes()
        (tmp_path / "run" / name).write_bytes(content.replace(b": ", b"\xff ", 1))
        run = resume(tmp_path / "run", model=backbone)
        assert [text for text in caplog.messages if name in text and "damaged in line 1" in text]
        # A warning may quote the loss of the line that is lost.
        assert same_files(unfinished / "whole", tmp_path / "run", ignore=(*TIMES, "result.json", Path(name).name))
        (whole,) = read_results(unfinished / "whole")
        assert (run.results[0].metrics, run.results[0].prompt_steps) == (whole.metrics, whole.prompt_steps)

    def test_a_record_that_was_cut_is_told_before_the_rows_are_read(self, unfinished, backbone, tmp_path, monkeypatch):
        shutil.copytree(unfinished / "killed", tmp_path / "run")
        (tmp_path / "run" / NAME / "metrics.jsonl").write_bytes(b"")
        monkeypatch.setattr(train_module, "load_rows", fails(AssertionError()))
        with pytest.raises(DamagedFile, match="has 0 bytes"):
            resume(tmp_path / "run", model=backbone)

    def test_restarts_are_not_compared_by_a_damaged_record(self, start, backbone, tmp_path, monkeypatch):
        prompt = PromptSettings(options={"prompt_length": 2}, restarts=2, restart_steps=4)
        monkeypatch.setattr(Loop, "_optimize", at_step(3, fails(MemoryError())))
        with pytest.raises(MemoryError):
            start(tmp_path / "run", prompt)
        record = tmp_path / "run" / NAME / "restarts" / "0.jsonl"
        record.write_bytes(record.read_bytes().replace(b"loss", b"l\xffss", 1))
        with pytest.raises(DamagedFile, match=r"0\.jsonl is damaged in line 1"):
            resume(tmp_path / "run", model=backbone)

    def test_a_plan_that_is_no_text_is_one_line(self, unfinished, backbone, tmp_path):
        shutil.copytree(unfinished / "killed", tmp_path / "run")
        plan = tmp_path / "run" / "run.json"
        plan.write_bytes(plan.read_bytes().replace(b"linear", b"line\xe9r"))
        with pytest.raises(DamagedFile, match="is not JSON"):
            resume(tmp_path / "run", model=backbone)


def test_a_rate_beyond_what_numbers_can_hold_drops_its_own_prompt_only(start, tmp_path):
    prompts = [PromptSettings(lr=rate, options={"prompt_length": 2}) for rate in (0.3, 1e38)]
    run = start(tmp_path / "run", prompts[0], SETTINGS, prompts[1])
    assert run.results[0].status == "finished"
    assert run.results[1].status == "dropped at step 1: its learning rate, 1e+38, is beyond what its numbers can hold"
    assert recorded_steps(tmp_path / "run" / f"{NAME}-lr0.3" / "metrics.jsonl") == 4


class TestFullDisk:
    def test_that_stops_a_record_is_a_failure_of_storage_and_the_run_goes_on(self, start, backbone, tmp_path):
        settings = TrainSettings(steps=30, eval_every=30, batch_size=2, eval_rows=4)
        full = pytest.raises(StorageFailure, match=r"cannot write .*metrics\.jsonl: File too large; free space")
        with file_limit(4000), full:
            start(tmp_path / "run", settings=settings)
        resume(tmp_path / "run", model=backbone)
        rows = read_record(tmp_path / "run" / NAME / "metrics.jsonl")
        assert [row["step"] for row in rows if "loss" in row] == list(range(1, 31))

    def test_closing_what_could_not_be_written_says_nothing_more(self, tmp_path):
        record = Record(tmp_path / "metrics.jsonl")
        with file_limit(10):
            with pytest.raises(StorageFailure):
                record.write({"step": 1, "loss": 0.5})
            record.close()
        assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_scores_are_computed_says_how_to_go_on(number, start, unfinished, backbone, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run = tmp_path / "my run"
    # A shell starts what stands before its "&" with SIGINT ignored, and then Python does not listen to it.
    listened = signal.signal(signal.SIGINT, signal.default_int_handler)

    def killed(*parts):
        os.kill(os.getpid(), number)
        # The main thread sees a signal that another one took a moment later, and not beyond this line.
        time.sleep(60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "finish_member", killed)
        with pytest.raises(Interrupted, match=f"scores were stored; go on with: softprompt train --resume '{run}'"):
            start(run, RESTARTED)
    signal.signal(signal.SIGINT, listened)
    assert signal.getsignal(signal.SIGTERM) is before
    resume(run, model=backbone)
    assert same_files(unfinished / "whole", run, ignore=TIMES)


def test_a_scored_prompt_that_is_gone_is_damage_and_is_stored_again(unfinished, backbone, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(unfinished / "whole", run)
    shutil.rmtree(run / NAME / "prompt")
    (line,) = damage(run)
    assert "holds a result and no prompt" in line
    assert f"delete {run / NAME / 'result.json'} and --resume {run}" in line
    resume(run, model=backbone)
    assert line in caplog.messages
    (run / NAME / "result.json").unlink()
    resume(run, model=backbone)
    assert list(damage(run)) == []
    assert same_files(unfinished / "whole", run, ignore=TIMES)


@pytest.mark.parametrize("place", ["checkpoints/mpt-0/step-000001", f"{NAME}/peft"])
def test_damage_is_seen_in_every_folder_that_has_a_manifest(place, unfinished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(unfinished / "whole", run)
    atomic.write_folder(run / place, {"weights.bin": b"as written"}, what="a part of a run")
    assert list(damage(run)) == []
    (run / place / "weights.bin").write_bytes(b"as changed")
    (line,) = damage(run)
    assert str(run / place) in line


class TestAFolderThatGoesWhileItIsTrained:
    def test_moved_ends_training_and_goes_on_where_it_is(self, start, backbone, tmp_path, monkeypatch):
        start(tmp_path / "whole")
        monkeypatch.setattr(Loop, "_optimize", at_step(3, lambda: (tmp_path / "run").rename(tmp_path / "elsewhere")))
        with pytest.raises(StorageFailure, match="moved or deleted"):
            start(tmp_path / "run")
        monkeypatch.undo()
        assert not (tmp_path / "run").exists()
        resume(tmp_path / "elsewhere", model=backbone)
        assert same_files(tmp_path / "whole", tmp_path / "elsewhere", ignore=TIMES)

    @pytest.mark.parametrize("step", [1, 4])
    def test_deleted_is_not_made_again(self, step, start, tmp_path, monkeypatch):
        monkeypatch.setattr(Loop, "_optimize", at_step(step, lambda: shutil.rmtree(tmp_path / "run")))
        with pytest.raises(StorageFailure, match="moved or deleted"):
            start(tmp_path / "run")
        assert list(tmp_path.iterdir()) == []

    def test_deleted_while_the_test_rows_are_scored_is_not_made_again(self, start, tmp_path, monkeypatch):
        last = train_module.last_reports

        def deleting(*given):
            shutil.rmtree(tmp_path / "run")
            return last(*given)

        monkeypatch.setattr(train_module, "last_reports", deleting)
        with pytest.raises(StorageFailure, match="moved or deleted"):
            start(tmp_path / "run")
        assert list(tmp_path.iterdir()) == []

    def test_replaced_by_another_run_is_left_alone(self, start, tmp_path, monkeypatch):
        def replace():
            monkeypatch.undo()
            (tmp_path / "run").rename(tmp_path / "elsewhere")
            start(tmp_path / "run", PromptSettings(lr=0.7))

        monkeypatch.setattr(Loop, "_optimize", at_step(3, replace))
        with pytest.raises(StorageFailure, match="moved or deleted"):
            start(tmp_path / "run", PromptSettings(lr=0.2))
        assert [prompt.lr for prompt in read_plan(tmp_path / "run").prompts] == [0.7]

    def test_of_a_store_is_not_made_again_either(self, task, tiny_t5, save_tiny, tmp_path, monkeypatch):
        model = save_tiny(tmp_path / "model", *tiny_t5())
        spec = RunSpec(task=task, model=str(model), prompt=PROMPT, settings=SETTINGS)
        monkeypatch.setattr(Loop, "_optimize", at_step(2, lambda: shutil.rmtree(tmp_path / "store")))
        with pytest.raises(StorageFailure, match="moved or deleted"):
            run_all([spec], tmp_path / "store", progress=False)
        assert not (tmp_path / "store").exists()
