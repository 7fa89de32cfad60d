"""The command line from rows to answers, on tiny models, and on a real encoder and real rows where they are at hand."""

import gzip
import itertools
import json
import os
import signal
import tomllib
from pathlib import Path

import pytest
from softprompt.builtin.packaged import PACKAGED, packaged_file
from softprompt.cli import main

from kit import review_rows, review_task

DATA_ROOT = os.environ.get("SOFTPROMPT_DATA_ROOT")
needs_data = pytest.mark.skipif(not DATA_ROOT, reason="real rows: SOFTPROMPT_DATA_ROOT is not set")


@pytest.fixture
def run(capsys):
    """Runs a command line; (exit code, JSON lines of standard output, standard error)."""

    def call(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        lines = [json.loads(line) for line in captured.out.splitlines() if line.startswith(("{", "["))]
        return code, lines, captured.err

    return call


@pytest.fixture(scope="module")
def trained(tiny_t5, tiny_bert, save_tiny, tmp_path_factory):
    """A folder with two models, rows, and one trained run of each model."""
    root = tmp_path_factory.mktemp("trained")
    save_tiny(root / "t5", *tiny_t5())
    save_tiny(root / "bert", *tiny_bert(head=False))
    files = review_task(root / "data").source.files
    for model in ("t5", "bert"):
        words = f"""train --data {files["train"]} --validation-data {files["validation"]} --test-data {files["test"]}
            --text-column text --label-column label --method prompt-tuning --seed 3 --steps 6 --eval-every 3
            --model {root / model} --output {root / "runs" / model} --quiet --json""".split()
        assert main(words) == 0
    return root


class TestFromRowsToAnswers:
    def test_train_ends_with_one_json_line_a_prompt(self, run, trained, tmp_path):
        files = {split: trained / "data" / f"{split}.csv" for split in ("train", "validation", "test")}
        code, lines, err = run(
            *("train", "--data", files["train"], "--validation-data", files["validation"]),
            *("--test-data", files["test"], "--text-column", "text", "--label-column", "label"),
            *("--method", "ept-star", "--method", "residual", "--seed", 0, "--seed", 1, "--lr", 0.1),
            *("--steps", 2, "--eval-every", 2, "--model", trained / "t5", "--output", tmp_path / "run"),
            *("--quiet", "--json"),
        )
        assert code == 0
        assert [(line["method"], line["seed"]) for line in lines] == [
            ("ept-star", 0),
            ("ept-star", 1),
            ("residual", 0),
            ("residual", 1),
        ]
        keys = {"run", "task", "method", "seed", "metrics", "best_step", "trainable", "stored", "seconds"}
        assert all(keys <= set(line) for line in lines)
        assert lines[0]["trainable"] == 3 * 16
        assert lines[0]["stored"] == 16
        assert set(lines[0]["metrics"]) == {"validation", "test"}
        assert "not learning" in err or "score" in err

    def test_evaluate_repeats_the_scores_of_training(self, run, trained):
        for model in ("t5", "bert"):
            code, (line,), _ = run("evaluate", trained / "runs" / model, "--json")
            assert code == 0
            result = json.loads(next((trained / "runs" / model).glob("*/result.json")).read_text())
            recorded = result["metrics"]["test"]
            assert line["n"] == 16
            assert line["invalid"] == recorded.pop("invalid")
            assert line["metrics"] == recorded

    def test_generation_counts_invalid_answers(self, run, trained):
        code, (line,), _ = run("evaluate", trained / "runs" / "t5", "--decode", "generate", "--json")
        assert code == 0
        assert 0 < line["invalid"] <= 16

    def test_predict_answers_each_text_with_a_json_line(self, run, trained, tmp_path, monkeypatch):
        code, lines, _ = run("predict", trained / "runs" / "bert", "good film", "a bad movie")
        assert code == 0
        assert [line["text"] for line in lines] == ["good film", "a bad movie"]
        for line in lines:
            assert set(line["scores"]) == {"good", "bad"}
            assert sum(line["scores"].values()) == pytest.approx(1)
            assert line["label"] == max(line["scores"], key=line["scores"].get)
        texts = tmp_path / "texts.txt"
        texts.write_text("good film\na bad movie\n")
        assert run("predict", trained / "runs" / "bert", "--file", texts)[1] == lines

    def test_texts_answered_together_are_answered_as_each_alone(self, run, trained):
        """Rows are batched by length; scores over label words of several tokens are probabilities."""
        texts = ["good", "a bad and very terrible film of the film", "the movie"]
        _, together, _ = run("predict", trained / "runs" / "t5", *texts)
        for text, line in zip(texts, together, strict=True):
            _, (alone,), _ = run("predict", trained / "runs" / "t5", text)
            assert line["scores"] == pytest.approx(alone["scores"], abs=1e-4)
            assert sum(line["scores"].values()) == pytest.approx(1)
        assert together[0]["scores"] != pytest.approx(together[1]["scores"], abs=1e-4)

    def test_an_exported_prompt_comes_back_the_same(self, run, trained, tmp_path):
        code, _, _ = run("export", trained / "runs" / "t5", "--format", "peft", "--output", tmp_path / "peft")
        assert code == 0
        assert (tmp_path / "peft" / "adapter_config.json").exists()
        code, _, _ = run("import", tmp_path / "peft", "--output", tmp_path / "back", "--model", trained / "t5")
        assert code == 0
        from softprompt import SoftPrompt

        ours, theirs = SoftPrompt.load(trained / "runs" / "t5"), SoftPrompt.load(tmp_path / "back")
        assert theirs.expanded().equal(ours.expanded())

    def test_an_imported_prompt_answers_a_task_that_is_named(self, run, trained, tmp_path):
        run("export", trained / "runs" / "t5", "--format", "numpy", "--output", tmp_path / "vectors.npy")
        run("import", tmp_path / "vectors.npy", "--output", tmp_path / "prompt", "--model", trained / "t5")
        code, _, err = run("predict", tmp_path / "prompt", "good film")
        assert code == 2
        assert "--task" in err
        code, (numeric,), _ = run("predict", tmp_path / "prompt", "good film", "--task", "glue/sst2")
        assert set(numeric["scores"]) == {"0", "1"}
        words = ("--task", "glue/sst2", "--style", "t5")
        code, (t5,), _ = run("predict", tmp_path / "prompt", "good film", *words)
        assert set(t5["scores"]) == {"negative", "positive"}
        assert t5["text"] == "good film"

    def test_a_text_longer_than_the_model_is_cut_when_predicting_as_when_training(self, run, trained):
        """The tiny BERT has 64 positions, 10 of them the prompt's."""
        texts = ["good film " * 40, " ".join((["good", "film"] * 40)[: 64 - 10 - 2])]
        code, lines, _ = run("predict", trained / "runs" / "bert", *texts)
        assert code == 0
        assert lines[0]["scores"] == pytest.approx(lines[1]["scores"])

    def test_show_tells_what_a_run_and_a_prompt_are(self, run, trained):
        code, (shown,), _ = run("show", trained / "runs" / "t5", "--json")
        assert code == 0
        assert shown["prompts"][0]["method"] == "prompt-tuning"
        entry = next((trained / "runs" / "t5").glob("*/prompt"))
        code, (prompt,), _ = run("show", entry, "--json")
        assert prompt["stored"] == 160
        assert prompt["seeds"] == {"initialization": 3, "order": 3, "draw": 3, "noise": 3}

    def test_free_text_targets_are_generated_and_scored(self, run, trained, tmp_path):
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps({"q": text, "a": label}) + "\n" for text, label in review_rows(40, 0)))
        code, (line,), _ = run(
            *("train", "--data", rows, "--text-column", "q", "--target-column", "a", "--model", trained / "t5"),
            *("--steps", 2, "--output", tmp_path / "run", "--quiet", "--json"),
        )
        assert code == 0
        assert {"squad-f1", "exact-match"} <= set(line["metrics"]["test"])
        code, (answer,), _ = run("predict", tmp_path / "run", "good film")
        assert set(answer) == {"text", "output"}


class TestBadInput:
    """One line, exit code 2, nothing half-written."""

    def refused(self, run, tmp_path, *words, says):
        code, lines, err = run(*words, "--output", tmp_path / "never", "--quiet")
        assert code == 2
        assert lines == []
        assert says in err
        assert len(err.strip().splitlines()) == 1
        assert "Traceback" not in err
        assert not (tmp_path / "never").exists()

    def test_names_that_do_not_exist(self, run, trained, tmp_path):
        data = ("--data", trained / "data" / "train.csv", "--text-column", "text", "--label-column", "label")
        model = ("--model", trained / "t5")
        self.refused(run, tmp_path, "train", "--task", "glue/sst", *model, says="Did you mean 'glue/sst2'?")
        self.refused(run, tmp_path, "train", *data, *model, "--method", "ept-stra", says="'ept-star'")
        self.refused(run, tmp_path, "train", *data, *model, "--metric", "acuracy", says="'accuracy'")
        wrong = (*data[:3], "txt", *data[4:])
        self.refused(run, tmp_path, "train", *wrong, *model, says="'text'")
        option = ("--method-option", "bottlenek=3", "--method", "residual")
        self.refused(run, tmp_path, "train", *data, *model, *option, says="'bottleneck'")
        self.refused(run, tmp_path, "train", *data, *model, "--init", "vocabluary", says="'vocabulary'")

    def test_files_and_rows(self, run, trained, tmp_path):
        columns, model = ("--text-column", "text", "--label-column", "label"), ("--model", trained / "t5")

        def train_on(content, says, *more, name="rows.csv"):
            (tmp_path / name).write_text(content)
            self.refused(run, tmp_path, "train", "--data", tmp_path / name, *columns, *more, *model, says=says)

        self.refused(run, tmp_path, "train", "--data", tmp_path / "no.csv", *columns, *model, says="no file")
        train_on("", "rows.csv")
        train_on("text,label\ngood,1\nbad,0\nmore,1,2\n", "rows.csv:4: 3 fields")
        train_on('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\nnot json\n', ":3: not JSON", name="r.jsonl")
        train_on("text,label\na,1\nb,1\n", "one label only")
        words = ("--label-words", "1=yes", "--label-words", "0=yes")
        train_on("text,label\na,1\nb,0\n", "'yes'", *words)
        train_on("text,label\na,1\nb,0\n", "empty", "--label-words", "1=yes", "--label-words", "0=")

    def test_a_label_of_the_validation_file_outside_the_label_words(self, run, trained, tmp_path):
        (tmp_path / "v.csv").write_text("text,label\ngood,good\nodd,neutral\n")
        self.refused(
            run, tmp_path, "train", "--data", trained / "data" / "train.csv", "--validation-data", tmp_path / "v.csv",
            "--text-column", "text", "--label-column", "label", "--model", trained / "t5",
            says="v.csv:3: label 'neutral'",
        )  # fmt: skip

    def test_models_and_lengths(self, run, trained, tmp_path):
        data = ("--data", trained / "data" / "train.csv", "--text-column", "text", "--label-column", "label")
        self.refused(run, tmp_path, "train", *data, "--model", tmp_path / "none", says="no model folder")
        bert = ("--model", trained / "bert", "--method", "prompt-tuning")
        self.refused(run, tmp_path, "train", *data, *bert, "--prompt-length", 600, says="600 positions leaves 0")
        self.refused(run, tmp_path, "train", *data, *bert, "--answers", "label-words", says="no masked-LM head")
        self.refused(run, tmp_path, "train", *data, *bert, "--dtype", "float16", says="float16")
        self.refused(run, tmp_path, "train", *data, says="--model")

    def test_bad_rows_may_be_dropped(self, run, trained, tmp_path):
        content = (trained / "data" / "train.csv").read_text() + "one,two,three\n"
        (tmp_path / "rows.csv").write_text(content)
        code, _, err = run(
            "train", "--data", tmp_path / "rows.csv", "--text-column", "text", "--label-column", "label",
            "--model", trained / "t5", "--steps", 1, "--output", tmp_path / "run", "--quiet", "--max-bad-rows", 1,
        )  # fmt: skip
        assert code == 0
        assert "rows.csv:50" in err

    def test_a_run_folder_that_holds_another_run(self, run, trained):
        data = ("--data", trained / "data" / "train.csv", "--text-column", "text", "--label-column", "label")
        target = trained / "runs" / "t5"
        before = {p: p.read_bytes() for p in target.rglob("*") if p.is_file()}
        code, _, err = run("train", *data, "--model", trained / "t5", "--output", target, "--quiet")
        assert code == 2
        assert "already holds a run" in err
        assert before == {p: p.read_bytes() for p in target.rglob("*") if p.is_file()}

    def test_a_prompt_of_another_model_names_both(self, run, trained, tiny_t5, save_tiny, tmp_path):
        save_tiny(tmp_path / "other", *tiny_t5(seed=9))
        code, _, err = run("evaluate", trained / "runs" / "t5", "--model", tmp_path / "other")
        assert code == 2
        assert str(trained / "t5") in err
        assert str(tmp_path / "other") in err

    def test_a_full_disk_is_one_line_and_the_run_can_go_on(self, run, trained, tmp_path, monkeypatch):
        import softprompt.store._folder as folder

        data = ("--data", trained / "data" / "train.csv", "--text-column", "text", "--label-column", "label")
        words = ("train", *data, "--model", trained / "t5", "--steps", 4, "--eval-every", 2, "--quiet")
        write, calls = folder._write, []

        def full(path, content):
            calls.append(path)
            if len(calls) > 6:
                raise OSError(28, "No space left on device")
            write(path, content)

        monkeypatch.setattr(folder, "_write", full)
        code, _, err = run(*words, "--output", tmp_path / "run")
        assert code == 2
        assert "No space left" in err
        assert "Traceback" not in err
        monkeypatch.setattr(folder, "_write", write)
        assert run("train", "--resume", tmp_path / "run", "--quiet")[0] == 0


def test_ctrl_c_saves_says_how_to_go_on_and_exits_with_130(run, trained, tmp_path, monkeypatch):
    from softprompt.training._loop import Loop

    optimize = Loop._optimize

    def interrupted(loop):
        if loop.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return optimize(loop)

    monkeypatch.setattr(Loop, "_optimize", interrupted)
    data = ("--data", trained / "data" / "train.csv", "--text-column", "text", "--label-column", "label")
    words = ("train", *data, "--model", trained / "t5", "--steps", 5, "--output", tmp_path / "run", "--quiet")
    code, _, err = run(*words)
    assert code == 130
    assert f"softprompt train --resume {tmp_path / 'run'}" in err
    monkeypatch.setattr(Loop, "_optimize", optimize)
    code, (line,), _ = run("train", "--resume", tmp_path / "run", "--quiet", "--json")
    assert code == 0
    assert line["best_step"] == 5


def real_rows(root, train):
    """A data root with 128 of SST-2's validation rows and so many training rows."""
    (root / "glue/sst2").mkdir(parents=True)
    for split, count in (("train", train), ("validation", 128)):
        with gzip.open(Path(str(DATA_ROOT)) / f"glue/sst2/{split}.jsonl.gz", "rt") as rows:
            (root / f"glue/sst2/{split}.jsonl").write_text("".join(itertools.islice(rows, count)))
    return root


@pytest.fixture(scope="module")
def real_root(tmp_path_factory):
    """With 12,000 training rows, which are split as a large set."""
    return real_rows(tmp_path_factory.mktemp("real"), 12_000)


class TestRealEncoder:
    def test_the_tests_install_the_version_whose_weights_are_known(self):
        """The package is a repack by a third party."""
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
        assert PACKAGED["minilm"].requirement in project["optional-dependencies"]["dev"]
        assert packaged_file("minilm").name == "model.safetensors"

    @needs_data
    def test_the_main_job_on_real_rows(self, run, real_root, tmp_path):
        code, (line,), _ = run(
            *("train", "--task", "glue/sst2", "--method", "ept-star", "--model", "minilm"),
            *("--data-root", real_root, "--steps", 4, "--eval-every", 4, "--eval-rows", 32, "--max-length", 48),
            *("--output", tmp_path / "run", "--quiet", "--json"),
        )
        assert code == 0
        assert line["task"] == "glue/sst2"
        assert line["trainable"] == 3 * 384
        assert line["stored"] == 384
        assert line["head"] == 2 * 384 + 2
        assert 0.4 < line["metrics"]["test"]["accuracy"] < 1
        code, (answer,), _ = run("predict", tmp_path / "run", "a warm and funny film")
        assert set(answer["scores"]) == {"negative", "positive"}

    @needs_data
    def test_the_same_command_on_a_t5_with_the_real_tokenizer(self, run, tmp_path):
        folder = Path(str(DATA_ROOT)).parent / "models" / "tokenizers" / "t5"
        if not folder.exists():
            pytest.skip("no T5 tokenizer beside the data root")
        from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        )
        config = T5Config(vocab_size=32128, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        config.decoder_start_token_id = 0
        T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
        tokenizer.save_pretrained(tmp_path / "t5")
        code, (line,), _ = run(
            *("train", "--task", "glue/sst2", "--method", "ept-star", "--model", tmp_path / "t5"),
            *("--data-root", real_rows(tmp_path / "rows", 200), "--steps", 2, "--eval-rows", 16),
            *("--output", tmp_path / "run"),
            *("--quiet", "--json"),
        )
        assert code == 0
        plan = json.loads((tmp_path / "run" / "run.json").read_text())
        assert plan["task"]["labels"] == ["0", "1"]
        assert line["metrics"]["test"]["invalid"] == 0
