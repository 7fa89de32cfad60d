"""Prompts that begin as given vectors: how many they have, and runs that go on without what they began as."""

import json
import shutil

import numpy as np
import pytest
from softprompt.cli import main
from softprompt.errors import BadInput
from softprompt.settings import TrainSettings
from softprompt.training import Interrupted, read_plan, resume, train
from softprompt.training._loop import Loop

from kit import at_step, fails, same_files
from training_kit import entry

E, SETTINGS = 16, TrainSettings(steps=4, eval_every=2, batch_size=4)
TIMES = ("timing.jsonl", "state.json", "manifest.json", "prompt.json", "result.json")


@pytest.fixture
def source(task, t5_folder, tmp_path):
    """Makes what a prompt may begin as, under its `init`."""

    def made(kind, **prompt):
        path = tmp_path / kind
        if kind == "file":
            np.save(tmp_path / "three.npy", np.random.default_rng(0).normal(size=(3, E)).astype("float32"))
            return f"file:{tmp_path / 'three.npy'}"
        train(task, str(t5_folder), prompts=entry(**prompt), settings=TrainSettings(steps=1), output=path)
        return f"prompt:{path}"

    return made


class TestTheLength:
    @pytest.mark.parametrize(
        ("kind", "made", "method", "length"),
        [
            ("file", {}, "prompt-tuning", 3),
            ("prompt", {"options": {"m": 4}}, "residual", 4),
            # Of a prompt that is stored once and stands repeated, as many as stand there.
            ("prompt", {"method": "ept-star", "options": {"repeats": 5}}, "prompt-tuning", 5),
            ("prompt", {"options": {"m": 2}, "deep": True}, "prompt-tuning", 2),
        ],
    )
    def test_is_that_of_the_source_and_the_run_that_names_it_is_the_same(
        self, task, t5_folder, tmp_path, source, kind, made, method, length
    ):
        common = {"method": method, "init": source(kind, **made), "deep": "deep" in made}
        folders = []
        for name, options in (("follows", {}), ("given", {"prompt_length": length})):
            prompts = entry(**common, options=options)
            run = train(task, str(t5_folder), prompts=prompts, settings=SETTINGS, output=tmp_path / name)
            assert run.prompt().length == length
            folders.append(run.folder)
        assert same_files(*folders, ignore=(*TIMES, "run.json"))
        assert [read_plan(folder).prompts[0].options for folder in folders] == 2 * [{"prompt_length": length}]

    @pytest.mark.parametrize(
        ("prompt", "needed"),
        [
            ({"options": {"prompt_length": 2}}, 2),
            ({"options": {"m": 4}}, 4),
            ({"options": {"repeats": 3}}, 10),
            ({"method": "ept"}, 1),
            ({"method": "ept-star"}, 1),
        ],
    )
    def test_is_the_prompts_own_where_it_is_given_or_fixed(self, task, t5_folder, tmp_path, source, prompt, needed):
        prompts = entry(**prompt, init=source("file"))
        told = (
            rf"the vectors to start from are \[3, 16\], this prompt is \[{needed}, 16\] .*; give as many by `prompt_l"
        )
        with pytest.raises(BadInput, match=told):
            train(task, str(t5_folder), prompts=prompts, settings=SETTINGS, output=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_follows_on_the_command_line_for_each_method_of_a_run(self, task, t5_folder, tmp_path, source, capsys):
        words = ["train", "--data", task.source.files["train"], "--text-column", "text", "--label-column", "label"]
        words += ["--model", str(t5_folder), "--init", source("file"), "--steps", "1", "--quiet"]
        assert (
            main([*words, "--method", "prompt-tuning", "--method", "residual", "--output", str(tmp_path / "run")]) == 0
        )
        stored = [json.loads(path.read_text()) for path in sorted((tmp_path / "run").glob("*/prompt/prompt.json"))]
        assert [values["shapes"]["vectors"] for values in stored] == [[3, E], [3, E]]
        capsys.readouterr()
        assert main([*words, "--prompt-length", "5", "--output", str(tmp_path / "other")]) == 2
        (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("softprompt: ")]
        assert "[3, 16], this prompt is [5, 16]" in line
        assert not (tmp_path / "other").exists()

    def test_is_compared_with_the_positions_of_the_model_before_that_is_loaded(self, bert_folder, task, tmp_path):
        np.save(tmp_path / "long.npy", np.zeros((600, E), dtype=np.float32))
        prompts = entry(init=f"file:{tmp_path / 'long.npy'}")
        with pytest.raises(BadInput, match="a prompt of 600 positions leaves 0 for text"):
            train(task, str(bert_folder), prompts=prompts, settings=SETTINGS, output=tmp_path / "run")

    def test_that_is_given_in_another_way_makes_no_other_prompt(self, task, t5_folder, tmp_path, source):
        init = source("file")
        twins = [entry(init=init), entry(init=init, options={"prompt_length": 3})]
        with pytest.raises(BadInput, match="prompts 1 and 2 of this run are the same"):
            train(task, str(t5_folder), prompts=twins, settings=SETTINGS, output=tmp_path / "run")


class TestARunWhoseSourceIsGone:
    @pytest.mark.parametrize(
        ("kind", "made", "given"),
        [
            ("file", {}, {"method": "p-tuning", "restarts": 2}),
            ("prompt", {"options": {"m": 2}, "deep": True}, {"deep": True}),
            ("prompt", {"options": {"m": 1}}, {"method": "polar"}),
            ("prompt", {"options": {"m": 2}}, {"method": "spot", "options": {"prompt_length": 2}}),
            ("prompt", {"options": {"m": 2}}, {"method": "attempt", "options": {"prompt_length": 2}}),
        ],
    )
    def test_goes_on_from_its_checkpoint_to_the_same_bytes(
        self, task, t5_folder, tmp_path, source, monkeypatch, kind, made, given
    ):
        init = source(kind, **made)
        begins = (
            {"sources": init.removeprefix("prompt:")} if given.get("method") in ("spot", "attempt") else {"init": init}
        )
        prompts = entry(**given, **begins)

        def run(name):
            return train(task, str(t5_folder), prompts=prompts, settings=SETTINGS, output=tmp_path / name)

        whole = run("whole")
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_optimize", at_step(3, fails(KeyboardInterrupt())))
            with pytest.raises((Interrupted, KeyboardInterrupt)):
                run("stopped")
        path = tmp_path / ("three.npy" if kind == "file" else "prompt")
        shutil.move(path, tmp_path / "elsewhere")
        resume(tmp_path / "stopped")
        assert same_files(whole.folder, tmp_path / "stopped", ignore=TIMES)

    def test_and_has_no_checkpoint_is_refused_with_its_name(self, task, t5_folder, tmp_path, source, monkeypatch):
        init = source("file")
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_optimize", fails(SystemExit()))
            patch.setattr("softprompt.training._folder._empty", lambda folder: None)
            with pytest.raises(SystemExit):
                train(task, str(t5_folder), prompts=entry(init=init), settings=SETTINGS, output=tmp_path / "run")
        (tmp_path / "three.npy").unlink()
        with pytest.raises(BadInput, match=r"cannot read '.*three.npy'"):
            resume(tmp_path / "run")
