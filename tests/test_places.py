"""Files and models behind a run: found from any folder, and after they were moved together with it."""

import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from softprompt.backbones import lasting_name, model_name
from softprompt.backbones._gguf import cache_folder
from softprompt.cli import main
from softprompt.data import Ragged
from softprompt.data._cache import cached
from softprompt.errors import BadInput
from softprompt.inference.evaluate import evaluate
from softprompt.interop.hub import without_folders
from softprompt.interop.numpy import export_numpy, import_numpy
from softprompt.machine import findings, rows_cache
from softprompt.prompts.prompt import SoftPrompt
from softprompt.settings import PromptSettings
from softprompt.store import refuse_no_place, save_prompt, write_file, write_folder
from softprompt.tasks import Source, Task, allowed, foreign, named_files
from softprompt.tasks.files import paths_of
from softprompt.training import read_plan, train
from softprompt.training._keywords import from_any_folder

from kit import review_task, rewrite

RUN = Path("runs", "x")
COLUMNS: dict[str, Any] = {"text_column": "text", "label_column": "label", "validation_data": "data/validation.csv"}


@pytest.fixture(scope="module")
def project(tiny_t5, save_tiny, tmp_path_factory) -> Path:
    """A folder with rows, a model and a run that was started there with relative paths."""
    folder = tmp_path_factory.mktemp("projects") / "here"
    review_task(folder / "data")
    shutil.copy(folder / "data" / "test.csv", folder / "data" / "more.csv")
    save_tiny(folder / "models" / "t5", *tiny_t5())
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        options = {
            **COLUMNS,
            "prompt_length": 2,
            "steps": 1,
            "eval_every": 1,
            "test_data": ["data/test.csv", "data/more.csv"],
        }
        run = train("data/train.csv", "models/t5", data_root="rows", output=RUN, **options)
        again = {**COLUMNS, "prompt_length": 2, "steps": 1, "eval_every": 1}
        start = f"prompt:{RUN}/{run.results[0].prompt}/prompt"
        train("data/train.csv", "models/t5", output="runs/again", init=start, **again)
    return folder


@pytest.fixture
def copied(project, tmp_path) -> Iterator[Path]:
    """The same elsewhere; the project itself is away for as long."""
    shutil.copytree(project, tmp_path / "copied")
    away = project.with_name("away")
    project.rename(away)
    yield tmp_path / "copied"
    away.rename(project)


def score(run: Path, **options: Any) -> float:
    return evaluate(SoftPrompt.load(run), split="validation", **options).metrics["score"]


def test_relative_paths_are_read_from_another_folder(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert score(project / RUN) >= 0
    plan = read_plan(project / RUN)
    assert plan.task.source.paths("test") == tuple(str(project / "data" / name) for name in ("test.csv", "more.csv"))
    assert (plan.model.name, plan.data_root) == (str(project / "models" / "t5"), str(project / "rows"))
    begun = read_plan(project / "runs" / "again").prompts[0].init.removeprefix("prompt:")
    assert SoftPrompt.load(begun).provenance.backbone.name == plan.model.name


def test_files_and_run_that_moved_together_are_read_where_they_are(copied):
    assert read_plan(copied / RUN).task.source.paths("validation") == (str(copied / "data" / "validation.csv"),)
    assert score(copied / RUN, model=str(copied / "models" / "t5")) >= 0
    shutil.rmtree(copied / "data")
    with pytest.raises(BadInput, match=r"no file '.*here/data/train\.csv'"):
        score(copied / RUN, model=str(copied / "models" / "t5"))


def test_a_copy_with_other_rows_beside_it_says_which_are_read(project, tmp_path, caplog):
    shutil.copytree(project, tmp_path / "copied")
    with caplog.at_level(logging.WARNING, "softprompt"):
        assert read_plan(tmp_path / "copied" / RUN).task.source.files["train"] == str(project / "data" / "train.csv")
        assert caplog.messages == []
        with (tmp_path / "copied" / "data" / "train.csv").open("a") as file:
            file.write("more,0\n")
        assert read_plan(tmp_path / "copied" / RUN).task.source.files["train"] == str(project / "data" / "train.csv")
    (line,) = caplog.messages
    assert f"{project}/data/train.csv, which is read; {tmp_path}/copied/data/train.csv holds other rows" in line


def test_a_run_from_before_whole_paths_finds_files_and_model_in_the_folders_above_it(copied, monkeypatch):
    path = copied / RUN / "run.json"

    def before(plan):
        del plan["task"]["source"]["beside"]
        plan["task"]["source"]["files"] = {"train": "data/train.csv", "test": "elsewhere.csv"}
        plan["model"] = "models/t5"

    rewrite(path, before)
    old = read_plan(copied / RUN)
    assert old.task.source.files == {"train": str(copied / "data" / "train.csv"), "test": "elsewhere.csv"}
    assert old.model.name == str(copied / "models" / "t5")
    monkeypatch.chdir(copied)
    here = read_plan(RUN)
    assert (here.task.source.files["train"], here.model.name) == ("data/train.csv", "models/t5")


def test_a_prompt_that_was_taken_out_of_its_run_keeps_the_whole_paths(project, tmp_path):
    (stored,) = (project / RUN).glob("*/prompt")
    shutil.copytree(stored, tmp_path / "a" / "b" / "prompt")
    task = SoftPrompt.load(tmp_path / "a" / "b" / "prompt").provenance.task
    assert task is not None
    assert task["source"]["files"]["train"] == str(project / "data" / "train.csv")


def test_a_file_called_run_json_does_not_make_a_prompt_the_users_own(project, tmp_path):
    (stored,) = (project / RUN).glob("*/prompt")
    for number, plan in enumerate((b"", b"{}", b'{"format": 1, "task": 3}', (project / RUN / "run.json").read_bytes())):
        taken = tmp_path / f"{number}"
        shutil.copytree(stored, taken / "member" / "prompt")
        (taken / "run.json").write_bytes(plan)
        is_whole = number == 3
        assert SoftPrompt.load(taken / "member" / "prompt").provenance.is_foreign is not is_whole
    rewrite(tmp_path / "3" / "run.json", lambda plan: plan["task"]["source"].update(folder="other"))
    assert SoftPrompt.load(tmp_path / "3").provenance.is_foreign


@pytest.mark.parametrize(
    "named",
    [{"hub": "a/b"}, {"hub": "/private"}, {"hub": "csv"}, {"hub": "../x"}, {"train": "../../x"}, {"validation": "/x"},
     {"test": "../x"}, {"folder": "/x"}, {"files": {"test": "x.csv"}}],
)  # fmt: skip
def test_all_places_here_that_a_prompt_from_elsewhere_names_are_asked_about(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = Task(name="t", template="{a}", labels=("x", "y"), source=Source(hub="user/name", folder="glue/sst2"))
    assert named_files(foreign(task)) == ()
    (tmp_path / "a" / "b").mkdir(parents=True)
    task = dataclasses.replace(task, source=dataclasses.replace(task.source, **named))
    (value,) = named.values()
    assert named_files(foreign(task)) == ("x.csv" if isinstance(value, dict) else value,)
    assert named_files(task) == named_files(allowed(foreign(task))) == ()


def test_only_the_folder_of_a_model_gets_a_whole_path(project, monkeypatch):
    monkeypatch.chdir(project)
    assert lasting_name("models/t5") == str(project / "models" / "t5")
    assert [lasting_name(name) for name in ("google-t5/t5-small", "lab-t5", "t5")] == [
        "google-t5/t5-small", "lab-t5", "t5"
    ]  # fmt: skip
    prompt = SoftPrompt.load(project / RUN)
    export_numpy(prompt, "vectors.npy")
    assert import_numpy("vectors.npy", backbone_name="models/t5").provenance.backbone.name == lasting_name("models/t5")
    os.remove("vectors.npy")


def test_only_initial_vectors_of_a_file_or_a_folder_here_get_a_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    given = {
        "prompt:mine": f"prompt:{tmp_path}/mine", "file:a.npy": f"file:{tmp_path}/a.npy", "prompt:user/name": None,
        "text:mine": None, "uniform": None,
    }  # fmt: skip
    for init, expected in given.items():
        assert from_any_folder(PromptSettings(init=init)).init == (expected or init)


def test_what_is_published_names_no_folder(project, tmp_path):
    prompt = without_folders(SoftPrompt.load(project / "runs" / "again"))
    text = (save_prompt(prompt, tmp_path / "public") / "prompt.json").read_text()
    assert str(project.parent) not in text
    assert "runs" not in text
    task = SoftPrompt.load(tmp_path / "public").provenance.task
    assert task is not None
    assert task["source"]["files"] == {"train": "train.csv", "validation": "validation.csv"}
    assert (prompt.provenance.backbone.name, prompt.provenance.training["init"]) == ("t5", "prompt:prompt")


@pytest.fixture
def homeless(monkeypatch):
    """A user whom the system does not know and who has no HOME."""
    for name in ("HOME", "XDG_CACHE_HOME", "SOFTPROMPT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    # What `os.path.expanduser` asks.
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])


class TestTheHomeFolder:
    def test_of_a_user_without_one_is_no_cache_and_no_fault(self, homeless, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert rows_cache() is None
        tokens = Ragged.of([[1, 2]]), Ragged.of([[0, 0]]), 0
        assert cached("key", lambda: tokens) is tokens
        assert [found.here for found in findings() if found.what in ("cache of rows", "cache of the hub")] == [
            "none: this user has no home folder"
        ] * 2
        assert paths_of("~/rows.csv") == ("~/rows.csv",)
        assert model_name("~/model") == "~/model"
        assert list(tmp_path.iterdir()) == []

    def test_is_put_into_the_variable_of_the_cache_wherever_that_is_read(self, tmp_path, monkeypatch):
        # A Dockerfile's ENV has no shell that would do it.
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("SOFTPROMPT_CACHE", "~/c")
        assert rows_cache() == cache_folder() == tmp_path / "c"
        (found,) = [found.here for found in findings() if found.what == "cache of rows"]
        assert found == f"{tmp_path / 'c'} (can be written)"

    def test_holds_the_cache_that_is_checked_where_no_variable_names_one(self, tmp_path, monkeypatch):
        monkeypatch.delenv("SOFTPROMPT_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        (found,) = [found.here for found in findings() if found.what == "cache of rows"]
        assert found == f"{rows_cache()} (can be written)"

    def test_of_an_unknown_user_is_the_name_of_a_file(self):
        assert paths_of("~rows.csv") == ("~rows.csv",)

    def test_is_put_into_the_value_of_any_option(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "there").touch()
        assert main(["evaluate", "prompt", "--output=~/there"]) == 2
        assert f"'{tmp_path}/there' exists already" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "write",
        [
            lambda path: write_file(path, b"", what="a file"),
            lambda path: write_folder(path, {}, what="a folder"),
            lambda path: refuse_no_place(path, "a run"),
        ],
        ids=["file", "folder", "place"],
    )
    def test_is_not_the_name_of_a_folder_to_write(self, write, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BadInput, match="'~/x' begins with ~, which only a shell replaces; write the whole path"):
            write(Path("~/x"))
        assert list(tmp_path.iterdir()) == []
