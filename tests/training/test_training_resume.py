"""A run that stopped goes on to the same bytes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from softprompt.backbones import load_backbone
from softprompt.errors import BadInput, RunExists, UnknownName
from softprompt.settings import ModelSpec, TrainSettings
from softprompt.training import Interrupted, read_plan, resume, train
from softprompt.training import _train as train_module
from softprompt.training._loop import Loop

from kit import same_files
from tiny import ALL
from training_kit import FOUR, KEPT_SETTINGS


@pytest.fixture(scope="module")
def whole(kept_task, t5_folder, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("kept") / "whole"
    TestResume().train(kept_task, t5_folder, folder)
    return folder


class TestResume:
    def test_a_backbone_that_was_loaded_before_is_recorded_as_it_is_and_loaded_so_again(
        self, task, t5_folder, tmp_path, monkeypatch
    ):
        """Else `resume` would load another model than the run began with."""
        backbone = load_backbone(t5_folder, device="cpu", dtype="bfloat16", engine="reference")
        backbone.revision = "abc"
        run = tmp_path / "run"
        train(task, backbone, settings=TrainSettings(steps=1), output=run)
        recorded = read_plan(run).model
        assert dataclasses.replace(recorded, device="cpu") == backbone.spec
        assert (recorded.dtype, recorded.revision, recorded.engine) == ("bfloat16", "abc", "reference")
        for result in run.glob("*/result.json"):
            result.unlink()
        loaded = []
        monkeypatch.setattr(train_module, "load_backbone", lambda spec: loaded.append(spec) or backbone)
        resume(run, device="cpu")
        assert loaded == [backbone.spec]

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [({"dtype": "float32"}, "dtype='bfloat16'"), ({"engine": "packed"}, "engine='reference'")],
    )
    def test_what_a_loaded_backbone_is_not_cannot_be_asked_of_it(self, task, t5_folder, tmp_path, wrong, words):
        backbone = load_backbone(ModelSpec(str(t5_folder), device="cpu", dtype="bfloat16", engine="reference"))
        with pytest.raises(BadInput, match=f"was loaded with {words}; give it to load_backbone"):
            train(task, backbone, steps=1, output=tmp_path / "run", **wrong)
        assert not (tmp_path / "run").exists()

    def test_a_spec_and_its_keywords_name_the_same_model_but_not_both_at_once(self, task, t5_folder, tmp_path):
        spec = ModelSpec(str(t5_folder), device="cpu", dtype="bfloat16")
        by_spec = train(task, spec, steps=1, output=tmp_path / "spec")
        by_keywords = train(task, str(t5_folder), device="cpu", dtype="bfloat16", steps=1, output=tmp_path / "keywords")
        assert same_files(
            by_spec.folder / "prompt-tuning-seed0" / "prompt", by_keywords.folder / "prompt-tuning-seed0" / "prompt"
        )
        with pytest.raises(BadInput, match="dtype belongs to the ModelSpec"):
            train(task, spec, dtype="float32", steps=1, output=tmp_path / "both")
        with pytest.raises(UnknownName, match="Did you mean 'quantize'"):
            load_backbone(t5_folder, quantise="int8")

    def train(self, task, model, folder, prompts=FOUR):
        return train(task, str(model), prompts=prompts, settings=KEPT_SETTINGS, output=folder)

    @pytest.mark.parametrize("crash", [2, 4, 7, 11, 12] if ALL else [4, 11])
    def test_a_run_that_died_and_was_resumed_leaves_the_same_bytes(
        self, crash, kept_task, t5_folder, whole, tmp_path, monkeypatch
    ):
        """Death between checkpoints (2, 7, 11) and right after one (4, 12), without any chance to clean up."""
        optimize = Loop._optimize

        def dying(loop):
            losses = optimize(loop)
            if loop.step == crash:
                raise MemoryError("killed")
            return losses

        monkeypatch.setattr(Loop, "_optimize", dying)
        with pytest.raises(MemoryError):
            self.train(kept_task, t5_folder, tmp_path / "killed")
        monkeypatch.setattr(Loop, "_optimize", optimize)
        resumed = resume(tmp_path / "killed")
        assert same_files(whole, tmp_path / "killed", ignore=("timing.jsonl", "state.json", "manifest.json"))
        assert [r.status for r in resumed.results] == ["finished"] * 4

    def test_an_interrupted_run_says_how_to_go_on_and_does(self, kept_task, t5_folder, whole, tmp_path, monkeypatch):
        optimize = Loop._optimize

        def interrupted(loop):
            if loop.step == 6:
                os.kill(os.getpid(), signal.SIGINT)
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", interrupted)
        with pytest.raises(Interrupted, match=r"after step 6 of 12; go on with: softprompt train --resume"):
            self.train(kept_task, t5_folder, tmp_path / "stopped")
        assert (tmp_path / "stopped" / "checkpoints" / "step-000006" / "manifest.json").exists()
        monkeypatch.setattr(Loop, "_optimize", optimize)
        resume(tmp_path / "stopped")
        assert same_files(whole, tmp_path / "stopped", ignore=("timing.jsonl", "state.json", "manifest.json"))

    def test_a_killed_process_is_resumed_to_the_same_bytes(self, kept_task, t5_folder, whole, tmp_path):
        """SIGKILL from outside, at whatever point the process has reached."""
        program = (
            "import sys, json; sys.path.insert(0, sys.argv[4]);"
            "from softprompt.training import train; from training_kit import FOUR, KEPT_SETTINGS;"
            "from softprompt.tasks import Task;"
            "task = Task.from_json(json.loads(sys.argv[1]));"
            "train(task, sys.argv[2], prompts=FOUR, settings=KEPT_SETTINGS, output=sys.argv[3])"
        )
        arguments = [
            json.dumps(kept_task.to_json()),
            str(t5_folder),
            str(tmp_path / "killed"),
            str(Path(__file__).parent.parent),
        ]
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        record = tmp_path / "killed" / "checkpoints"
        while process.poll() is None and not record.exists():
            time.sleep(0.01)
        process.kill()
        process.wait()
        resume(tmp_path / "killed")
        assert same_files(whole, tmp_path / "killed", ignore=("timing.jsonl", "state.json", "manifest.json"))

    def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
        self, kept_task, t5_folder, whole, tmp_path, monkeypatch
    ):
        finish = train_module.finish_member
        monkeypatch.setattr(train_module, "finish_member", lambda *a: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            self.train(kept_task, t5_folder, tmp_path / "damaged")
        monkeypatch.setattr(train_module, "finish_member", finish)
        newest = tmp_path / "damaged" / "checkpoints" / "step-000012" / "state.safetensors"
        content = bytearray(newest.read_bytes())
        content[-1] ^= 1
        newest.write_bytes(content)
        resume(tmp_path / "damaged")
        assert same_files(whole, tmp_path / "damaged", ignore=("timing.jsonl", "state.json", "manifest.json"))

    def test_resuming_a_finished_run_returns_its_results(self, task, t5_folder, tmp_path):
        first = self.train(task, t5_folder, tmp_path / "run", FOUR[:1])
        again = resume(tmp_path / "run")
        assert again.results == first.results

    def test_other_rows_than_at_the_start_are_refused(self, task, t5_folder, tmp_path, monkeypatch):
        monkeypatch.setattr(train_module, "finish_member", lambda *a: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            self.train(task, t5_folder, tmp_path / "run", FOUR[:1])
        file = Path(task.source.files["train"])
        file.write_text(file.read_text().replace("good", "fine", 1))
        with pytest.raises(BadInput, match="not those"):
            resume(tmp_path / "run")

    def test_a_second_process_in_the_same_folder_is_refused(self, task, t5_folder, tmp_path, monkeypatch):
        optimize, refused = Loop._optimize, []

        def meanwhile(loop):
            if loop.step == 2:
                with pytest.raises(RunExists, match="another process") as error:
                    resume(tmp_path / "run")
                refused.append(error)
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", meanwhile)
        self.train(task, t5_folder, tmp_path / "run", FOUR[:1])
        assert len(refused) == 1

    def test_a_folder_that_holds_a_run_is_refused_and_left_alone(self, task, t5_folder, tmp_path):
        self.train(task, t5_folder, tmp_path / "run", FOUR[:1])
        before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
        with pytest.raises(RunExists, match="`resume`"):
            self.train(task, t5_folder, tmp_path / "run", FOUR[:1])
        assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
