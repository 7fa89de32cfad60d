"""What can be told without the frozen model is told before it is loaded, and leaves nothing behind."""

import dataclasses
import os

import pytest
import softprompt.backbones._load as loading
from softprompt.backbones import load_backbone
from softprompt.cli import main
from softprompt.errors import StorageFailure
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.store import refuse_no_place
from softprompt.study import RunSpec, run_all
from softprompt.training import train

from kit import review_task

PROMPT = PromptSettings(options={"prompt_length": 2})


@pytest.fixture(scope="module")
def place(tiny_t5, tiny_bert, save_tiny, tmp_path_factory):
    """A folder with two models, a task's files and a trained run."""
    folder = tmp_path_factory.mktemp("place")
    save_tiny(folder / "t5", *tiny_t5())
    save_tiny(folder / "bert", *tiny_bert())
    task, backbone = review_task(folder / "data"), load_backbone(str(folder / "t5"))
    train(task, backbone, prompts=[PROMPT], settings=TrainSettings(steps=1), output=folder / "run")
    deep = dataclasses.replace(PROMPT, deep=True)
    train(task, backbone, prompts=[deep], settings=TrainSettings(steps=1), output=folder / "deep")
    (folder / "file").touch()
    (folder / "text.npy").write_text("no array")
    return folder


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """The one line of a command that must not come to a model's weights."""

    def loaded(*given, **options):
        raise AssertionError("the model is loaded")

    for name in ("read_language_model", "_encoder"):
        monkeypatch.setattr(loading, name, loaded)
    monkeypatch.chdir(place)

    def run(*words):
        before = sorted(place.rglob("*"))
        code = main(list(map(str, words)))
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert sorted(place.rglob("*")) == before
        (line,) = [text for text in err.splitlines() if text.startswith("softprompt: ")]
        return line

    return run


DATA = ("--data", "data/train.csv", "--text-column", "text", "--label-column", "label")
REQUESTS = {
    ("--epochs", "1", "--tokens-per-batch", "40"): "so that rows would be left out; give --steps",
    ("--init", "unifrom"): "unknown initialiser 'unifrom'. Did you mean 'uniform'?",
    ("--init", "text:"): "unknown initialiser",
    ("--init", "file:nowhere.npy"): "nowhere.npy",
    ("--init", "file:text.npy"): "text.npy",
    ("--init", "prompt:nowhere"): "nowhere",
    ("--init", "prompt:deep"): "give --deep",
    ("--shots", "1000"): "rows, 500 are to be drawn; lower --shots",
    ("--shots-per-class", "1000"): "class 'bad' has 18 rows, 1000 are to be drawn; lower --shots-per-class",
    ("--restarts", "2", "--restart-steps", "9", "--steps", "4"): "is longer than the run of 4 steps",
    ("--model", "bert", "--prompt-length", "600"): "a prompt of 600 positions leaves 0 for text",
    ("--metric", "acuracy"): "unknown metric 'acuracy'. Did you mean 'accuracy'?",
    ("--regularizer", "rn-emb:sigmaa=1"): "sigma",
    ("--text-column", "tekst"): "column 'tekst'",
}


@pytest.mark.parametrize(("words", "message"), REQUESTS.items(), ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("command", ["train", "stability"])
def test_training_and_stability_refuse_a_request_that_cannot_work(command, words, message, refused):
    output = "runs/x" if command == "train" else "report"
    folders = ("--output", output) if command == "train" else ("--output", output, "--store", "runs/store")
    line = refused(command, *DATA, "--model", "t5", *words, *folders, "--quiet")
    assert message in line


@pytest.mark.parametrize("words", [("train", "--output", "file/x"), ("stability", "--store", "file/x"),
                                   ("stability", "--store", "runs/store", "--output", "file/x")])  # fmt: skip
def test_training_and_stability_refuse_a_place_below_a_file(words, refused):
    assert "is no folder; choose another place" in refused(words[0], *DATA, "--model", "t5", "--quiet", *words[1:])


STUDY = """
[defaults]
task = "reviews"
model = "t5"
prompt_length = 2
[tasks.reviews]
files = {{ train = "data/train.csv" }}
text_columns = ["text"]
label_column = "label"
[[runs]]
seed = [0, 1]
[[runs]]
{}
"""


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('init = "prompt:nowhere"', "nowhere"),
        ("shots = 1000", "lower --shots"),
        ('model = "t6/x/y"', "no model folder"),
    ],
)
def test_a_study_refuses_its_last_run_before_its_first(table, message, refused, place):
    path = place / "study.toml"
    path.write_text(STUDY.format(table).replace("prompt_length = 2\n", ""))
    line = refused("study", "run", path, "--store", "runs/store", "--quiet")
    assert message in line
    assert line.startswith("softprompt: run ")


def test_a_study_refuses_a_column_of_a_later_task_before_its_first_run(place, refused, tmp_path):
    task = review_task(tmp_path / "data")
    wrong = dataclasses.replace(task, template="{tekst}")
    specs = [RunSpec(task=one, model=str(place / "t5"), prompt=PROMPT) for one in (task, wrong)]
    with pytest.raises(Exception, match="tekst"):
        run_all(specs, tmp_path / "store", progress=False)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "run", "--split", "tset"), "unknown split 'tset'. Did you mean 'test'?"),
        (("evaluate", "run", "--data", "nowhere.csv"), "nowhere.csv"),
        (("evaluate", "run", "--data", "other.csv"), "column"),
        (("predict", "run", "--file", "other.csv"), "column"),
        (("landscape", "run", "--split", "tset", "--output", "drawn"), "unknown split 'tset'"),
        (("landscape", "run", "--output", "file/x"), "is no folder"),
        (("landscape", "run", "--data-root", "nowhere", "--task", "glue/sst2", "--output", "drawn"), "nowhere"),
    ],
)
def test_what_reads_a_stored_prompt_refuses_splits_rows_and_places(words, message, refused, place):
    (place / "other.csv").write_text("title,label\na,good\n")
    assert message in refused(*words)


def test_label_words_are_not_scored_where_there_are_none(place, refused):
    (place / "free.csv").write_text("text,answer\n" + "the film,fine\n" * 20)
    words = ("--data", "free.csv", "--text-column", "text", "--target-column", "answer", "--model", "t5")
    assert "no label words to score" in refused("train", *words, "--decode", "scores", "--output", "runs/x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_leave_to_write_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageFailure, match="cannot be written"):
        refuse_no_place(tmp_path / "a" / "b", "the run")


def test_a_place_that_can_be_made_is_none_to_refuse(tmp_path):
    refuse_no_place(tmp_path / "a" / "b", "the run")
    assert list(tmp_path.iterdir()) == []
