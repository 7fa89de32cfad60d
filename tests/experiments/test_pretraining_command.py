"""`python -m experiments.pretraining`: what it prints, installs and refuses; recipes shrunk to a moment."""

import os
from pathlib import Path

import pytest
from experiments.pretraining.__main__ import main
from softprompt.builtin import folder_of

from kit import same_files


def test_an_unknown_backbone_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert main(["lab-t6"]) == 2
    assert "unknown built-in backbone 'lab-t6'. Did you mean 'lab-t5'?" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_recipes")
class TestPretrain:
    @pytest.fixture(autouse=True)
    def weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """An empty place for built-in backbones, and a working directory of the test's own."""
        root = tmp_path / "weights"
        root.mkdir()
        monkeypatch.setattr("softprompt.builtin.WEIGHTS", root)
        monkeypatch.chdir(tmp_path)
        return root

    def test_it_prints_the_folder_that_it_made_and_installs_nothing_unasked(
        self, weights: Path, capsys: pytest.CaptureFixture[str]
    ):
        assert main(["lab-gpt", "--quiet"]) == 0
        assert capsys.readouterr().out == "runs/pretrain-lab-gpt/backbone\n"
        assert Path("runs/pretrain-lab-gpt/backbone/model.safetensors").is_file()
        assert list(weights.iterdir()) == []

    def test_what_it_installs_is_what_the_name_loads(self, weights: Path, capsys: pytest.CaptureFixture[str]):
        words = ["lab-gpt", "--output", "work", "--install", "--quiet"]
        assert main(words) == 0
        assert capsys.readouterr().out == f"{weights / 'lab-gpt'}\n"
        # Every file against the manifest.
        assert folder_of("lab-gpt") == weights / "lab-gpt"
        assert same_files(Path("work/backbone"), weights / "lab-gpt")
        # Again, over what is there.
        assert main(words) == 0
        assert same_files(Path("work/backbone"), folder_of("lab-gpt"))

    def test_a_folder_of_something_else_is_refused(self, weights: Path, capsys: pytest.CaptureFixture[str]):
        Path("notes").mkdir()
        Path("notes/todo.txt").write_text("keep me")
        assert main(["lab-gpt", "--output", "notes", "--install"]) == 2
        assert capsys.readouterr() == ("", "softprompt: notes is not empty; choose a new --output\n")
        assert os.listdir("notes") == ["todo.txt"]
        assert list(weights.iterdir()) == []

    def test_a_stopped_one_leaves_with_130_and_says_how_to_go_on(
        self, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        monkeypatch.setattr("experiments.pretraining.pretrain._train", lambda *given: 2)
        assert main(["lab-gpt", "--install", "--quiet"]) == 130
        assert capsys.readouterr() == ("", "softprompt: stopped after step 2 of 3; the same command goes on\n")
        assert list(weights.iterdir()) == []
