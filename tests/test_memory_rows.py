"""Rows that a program holds, and `train` with plain keywords: as the command line does it from files."""

import contextlib
import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
import softprompt
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from softprompt.cli import main
from softprompt.data import load_rows
from softprompt.errors import BadInput, SoftPromptError, UnknownName
from softprompt.inference.evaluate import evaluate
from softprompt.inference.predict import predict
from softprompt.prompts.methods import METHODS, Method
from softprompt.prompts.prompt import SoftPrompt
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.tasks import Task, Wording, custom_task, on_rows, rephrased, styled
from softprompt.training import Interrupted, resume, train
from softprompt.training._keywords import default_output, prompts_from, settings_from, task_from

from kit import review_rows

ROWS = [{"text": text, "label": label} for text, label in review_rows(24, 0)]
COLUMNS = {"text_columns": ["text"], "label_column": "label"}


@pytest.fixture(scope="module")
def model(tiny_t5, save_tiny, tmp_path_factory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("models") / "t5", *tiny_t5()))


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A run of two steps on rows in memory, with plain keywords."""
    output = tmp_path_factory.mktemp("runs") / "memory"
    columns: Any = {"text_column": "text", "label_column": "label"}
    return train(ROWS, model, output=output, prompt_length=2, steps=2, eval_every=2, batch_size=4, **columns)


def stopped(monkeypatch, how_to_go_on, *args, **options):
    """Start a run that stops after its first step, and says how to go on."""
    with monkeypatch.context() as patched:
        patched.setattr("softprompt.training._drive.interruptible", lambda: contextlib.nullcontext(lambda: True))
        with pytest.raises(Interrupted, match=how_to_go_on):
            train(*args, **options)


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        tuple(ROWS),
        pandas.DataFrame(ROWS),
        Dataset.from_list(ROWS),
        Dataset.from_list(ROWS).data.table,
        DatasetDict({"train": Dataset.from_list(ROWS)}),
        {"train": pandas.DataFrame(ROWS)},
        pandas.DataFrame([{**row, "when": pandas.Timestamp(0), "n": 1} for row in ROWS]),
    ],
    ids=["list", "tuple", "DataFrame", "Dataset", "Table", "DatasetDict", "dict", "more columns"],
)
def test_each_kind_of_rows_makes_the_same_task(given):
    task = custom_task(given, **COLUMNS)
    assert task == custom_task(ROWS, **COLUMNS)
    assert load_rows(task)["train"].to_list() == ROWS
    assert (task.labels, task.name) == (("bad", "good"), "custom/rows")
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    assert "text" not in json.dumps(task.to_json()["source"])


def test_other_rows_and_another_order_have_another_fingerprint_and_a_whole_float_has_not():
    def sha(rows):
        return custom_task(rows, text_columns=["text"], target_column="label").source.memory["train"].sha256

    assert len({sha(ROWS), sha(ROWS[::-1]), sha(ROWS[1:]), sha([{**ROWS[0], "text": "x"}, *ROWS[1:]])}) == 4
    assert sha([{"text": "x", "label": 1.0}]) == sha([{"text": "x", "label": 1, "more": None}])


def test_rows_are_kept_as_they_were_when_the_task_was_made():
    rows = [dict(row) for row in ROWS]
    task = custom_task(rows, **COLUMNS)
    rows[0]["text"] = "other words"
    assert load_rows(task)["train"][0] == ROWS[0]


def test_class_names_of_a_dataset_are_the_label_words_and_unlabelled_rows_are_none():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    rows = [{"text": "x", "label": 1}, {"text": "y", "label": 0}, {"text": "z", "label": -1}]
    task = custom_task(Dataset.from_list(rows, features=features), **COLUMNS)
    assert (task.labels, task.label_values) == (("negative", "positive"), (0, 1))
    with pytest.raises(BadInput, match="train rows:3: label -1 marks an unlabelled row"):
        load_rows(task)


def numbered(labels, names) -> Dataset:
    """A table that counts its classes in the order of `names`; its texts say which class a row is of."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = [{"text": label, "label": names.index(label)} for label in labels]
    return Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("words", [None, {0: "terrible", 1: "great", 2: "middling"}, ["so", "bad", "good"]])
def test_splits_that_number_their_classes_otherwise_are_compared_by_name(words):
    labels = ["bad", "good", "so"]
    splits = {"train": numbered(labels, labels), "test": numbered(["good", "so", "good"], ["good", "so"])}
    task = custom_task(splits, label_words=words, **COLUMNS)
    assert load_rows(task)["train"].columns["label"] == [0, 1, 2]
    assert load_rows(task)["test"].columns["label"] == [1, 2, 1]
    stored = Task.from_json(json.loads(json.dumps(task.to_json())))
    later = on_rows(stored, numbered(["so", "bad"], ["so", "neither", "bad"]))
    assert load_rows(later)["test"].columns["label"] == [2, 0]


def test_a_class_that_training_did_not_have_is_a_malformed_row_and_other_names_are_refused():
    task = custom_task(numbered(["3", "4"], ["3", "4"]), **COLUMNS)
    with pytest.raises(BadInput, match=r"test rows:2: label \"class '1'\" is not one of 0, 1"):
        load_rows(on_rows(task, numbered(["3", "1"], ["1", "3"])))
    with pytest.raises(BadInput, match=r"classes of the test rows are called 'x', 'y', those that .* '3', '4'; give"):
        on_rows(task, numbered(["x", "y"], ["x", "y"]))


def test_numbered_rows_are_scored_by_a_task_of_texts_of_numbers_or_of_an_earlier_version():
    rows = numbered(["good", "bad"], ["good", "bad"])
    texts = custom_task([{"text": "x", "label": label} for label in ("bad", "good")], **COLUMNS)
    assert load_rows(on_rows(texts, rows))["test"].columns["label"] == ["good", "bad"]
    earlier = dataclasses.replace(custom_task(numbered(["bad", "good"], ["bad", "good"]), **COLUMNS), class_names=())
    assert load_rows(on_rows(earlier, rows))["test"].columns["label"] == [1, 0]
    plain = custom_task([{"text": "x", "label": label} for label in (0, 1)], **COLUMNS)
    assert load_rows(on_rows(plain, rows))["test"].columns["label"] == [0, 1]
    # The hub calls the classes of yelp_polarity "1" and "2", which are 0 and 1 here.
    polarity = dataclasses.replace(styled(softprompt.task("yelp_polarity"), "numeric"), source=plain.source)
    assert load_rows(on_rows(polarity, numbered(["2", "1"], ["1", "2"])))["test"].columns["label"] == [1, 0]


@pytest.mark.parametrize("style", ["words", "numeric", "compat", "instruct", "t5", "pet-0", "own"])
def test_classes_of_a_declared_task_are_compared_by_name_in_every_style(style):
    names = ["not_entailment", "entailment"]
    features = Features({"sentence1": Value("string"), "sentence2": Value("string"), "label": ClassLabel(names=names)})
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in (0, 1)]
    rte = softprompt.task("glue/rte")
    wording = Wording(instruction="Does it follow?", label_words=["yes", "no"])
    task = rephrased(styled(rte, "numeric"), wording) if style == "own" else styled(rte, style)
    assert load_rows(on_rows(task, Dataset.from_list(rows, features=features)))["test"].columns["label"] == [1, 0]


def test_an_own_task_named_as_a_declared_one_is_not_taken_for_it():
    task = rephrased(custom_task([{"text": "x", "label": label} for label in (0, 1)], name="glue/rte", **COLUMNS),
                     Wording(label_words=["0", "1"]))  # fmt: skip
    rows = numbered(["entailment", "not_entailment"], ["not_entailment", "entailment"])
    assert load_rows(on_rows(task, rows))["test"].columns["label"] == [1, 0]


def test_missing_values_of_a_frame_are_malformed_rows_and_labels_stay_whole_numbers():
    frame = pandas.DataFrame({"text": ["a", "b", None, "d"], "label": [0, 1, 1, None]})
    task = custom_task(frame, **COLUMNS)
    assert task.labels == ("0", "1")
    with pytest.raises(BadInput, match=r"train rows:3: column 'text' is empty \(and 1 more"):
        load_rows(task)
    assert [row["label"] for row in load_rows(task, max_bad_rows=2)["train"]] == [0, 1]


@pytest.mark.parametrize(
    ("given", "error", "what"),
    [
        ([], BadInput, "'train rows' holds no labelled rows"),
        ([{"text": "x", "label": "a"}, "y"], BadInput, "row 2 is a str; give each row as a dict"),
        (iter(ROWS), BadInput, "rows are a list of dicts, a pandas DataFrame, .* not a list_iterator"),
        ({"text": ["x"], "label": ["a"]}, UnknownName, "unknown split 'text'"),
        ([{"txt": "x", "label": "a"}], UnknownName, "unknown column 'text'. Did you mean 'txt'"),
        ([{"text": "x", "label": "a"}], BadInput, "'train rows' has one label only, 'a'"),
        ([{"text": "x", "label": v} for v in ("a", "b", "a ")], BadInput, r"label 'a ' \(train rows:3\) has blanks"),
    ],
)
def test_what_is_no_rows_is_refused_in_one_line(given, error, what):
    with pytest.raises(error, match=what):
        custom_task(given, **COLUMNS)


class TestTrained:
    def test_run_and_prompt_hold_the_fingerprint_and_not_the_rows(self, run):
        sha = custom_task(ROWS, **COLUMNS).source.memory["train"].sha256
        plan = json.loads((run.folder / "run.json").read_text())
        assert plan["task"]["source"]["memory"] == {"train": {"rows": 24, "sha256": sha}}
        assert run.prompt().provenance.task["source"]["memory"]["train"]["sha256"] == sha

    def test_evaluate_takes_rows_of_any_kind_whole_or_by_splits(self, run, model):
        prompt = run.prompt()
        by_splits = evaluate(prompt, {"train": ROWS}, model=model)
        assert (by_splits.n, by_splits.metrics["score"]) == (2, run.results[0].metrics["test"]["score"])
        assert evaluate(prompt, pandas.DataFrame(ROWS), model=model).n == 24
        with pytest.raises(BadInput, match="these 24 rows were given in memory and are not stored; give them again"):
            evaluate(prompt, model=model)
        with pytest.raises(BadInput, match="rows without splits are scored whole, there is no 'train' of them"):
            evaluate(prompt, ROWS, split="train", model=model)

    def test_evaluate_takes_a_file_as_the_command_line_does(self, run, model, tmp_path, capsys):
        pandas.DataFrame(ROWS).to_csv(tmp_path / "a.csv", index=False)
        report = evaluate(run.prompt(), tmp_path / "a.csv", model=model)
        words = ["evaluate", str(run.folder), "--model", model, "--json"]
        assert main([*words, "--data", str(tmp_path / "a.csv")]) == 0
        assert json.loads(capsys.readouterr().out)["metrics"] == report.metrics
        assert main(words) == 2
        assert "softprompt evaluate PROMPT --data FILE" in capsys.readouterr().err

    @pytest.mark.parametrize("kind", [pandas.DataFrame, Dataset.from_list, lambda rows: [r["text"] for r in rows]])
    def test_predict_answers_tables_as_it_answers_texts(self, run, model, kind):
        texts = [row["text"] for row in ROWS]
        assert predict(run.prompt(), kind(ROWS), model=model) == predict(run.prompt(), texts, model=model)
        series = pandas.DataFrame(ROWS)["text"]
        assert [answer["text"] for answer in predict(run.prompt(), series, model=model)] == texts

    def test_resume_takes_the_same_rows_again_and_refuses_others(self, model, tmp_path, monkeypatch):
        options = {"prompt_length": 2, "steps": 2, "eval_every": 1, "batch_size": 4, "text_column": "text"}
        options |= {"label_column": "label", "output": tmp_path / "run"}
        stopped(monkeypatch, r"go on with: softprompt\.resume\('.*', rows=\.\.\.\)", ROWS, model, **options)
        with pytest.raises(BadInput, match=r"was started with rows in memory; give them again: softprompt\.resume"):
            resume(tmp_path / "run")
        others = [*ROWS[1:], {**ROWS[0], "text": "something else"}]
        for rows, told in (
            (
                ROWS[1:],
                r"the train rows are not those that .* was started with: these are 23 rows, those were 24; give",
            ),
            (others, r"started with: these are 24 rows, those were 24 with other values; give the same rows in the"),
            ({"train": ROWS, "test": ROWS}, r"run was started without test rows in memory; leave them out$"),
        ):
            with pytest.raises(BadInput, match=told):
                resume(tmp_path / "run", rows=rows)
        finished = resume(tmp_path / "run", rows=pandas.DataFrame(ROWS))
        assert finished.results[0].status == "finished"
        assert resume(tmp_path / "run").results == finished.results

    def test_resume_names_the_rows_that_are_missing(self, model, tmp_path, monkeypatch):
        options = {"prompt_length": 2, "steps": 2, "eval_every": 1, "batch_size": 4, "text_column": "text"}
        options |= {"label_column": "label", "output": tmp_path / "run"}
        stopped(monkeypatch, "go on with", {"train": ROWS, "validation": ROWS[:6]}, model, **options)
        with pytest.raises(BadInput, match=r"run was started with validation rows in memory; give them too$"):
            resume(tmp_path / "run", rows={"train": ROWS})

    def test_a_run_on_files_refuses_rows(self, model, tmp_path, monkeypatch):
        pandas.DataFrame(ROWS).to_csv(tmp_path / "a.csv", index=False)
        options = {"text_column": "text", "label_column": "label", "steps": 2, "output": tmp_path / "run"}
        stopped(monkeypatch, "softprompt train --resume", tmp_path / "a.csv", model, **options)
        with pytest.raises(BadInput, match=r"reads its rows from where it did .*; leave rows out"):
            resume(tmp_path / "run", rows=ROWS)


class TestKeywords:
    def test_prompts_are_the_product_of_methods_rates_and_seeds(self):
        given = {"method": ["ept", "ept-star"], "lr": [0.1, 0.3], "seeds": [0, Seeds(order=5)], "prompt_length": 4}
        prompts = prompts_from(None, {**given, "max_norm": 3.0})
        assert [(prompt.method, prompt.lr) for prompt in prompts[::2]] == list(
            itertools.product(given["method"], given["lr"])
        )
        assert [prompt.seeds for prompt in prompts[:2]] == [Seeds.all(0), Seeds(order=5)]
        assert all((prompt.options, prompt.max_norm) == ({"prompt_length": 4}, 3.0) for prompt in prompts)
        assert prompts_from(None, {"method": "ept", "seeds": 3}) == [PromptSettings(method="ept", seeds=Seeds.all(3))]
        assert prompts_from(None, {}) == [PromptSettings()]

    def test_a_method_may_be_given_itself_with_its_options(self):
        ept, residual = METHODS["ept"], METHODS["residual"].with_options({"m": 3, "bottleneck": 8, "passes": 1})
        assert prompts_from(None, {"method": ept, "seeds": 3}) == prompts_from(None, {"method": "ept", "seeds": 3})
        plain, given = prompts_from(None, {"method": ["scaled", residual], "lr": 0.1})
        assert (plain.method, plain.options) == ("scaled", {})
        assert (given.method, Method.of(given)) == ("residual", residual)
        (other,) = prompts_from(None, {"method": residual, "options": {"passes": 4}})
        assert Method.of(other) == residual.with_options({"passes": 4})
        assert not any(method.given_options() for method in METHODS.values())
        assert METHODS["lora"].with_options({"r": 3}).given_options() == {"r": 3}

    @pytest.mark.parametrize(
        ("method", "message"),
        [
            (dataclasses.replace(METHODS["ept"], lr=9.0), r"differs from METHODS\['ept'\] in more than options"),
            (dataclasses.replace(METHODS["ept"], name="mine"), "unknown method 'mine'"),
            ([METHODS["ept"], "ept"], "method is given 'ept' twice"),
        ],
    )
    def test_a_method_that_no_options_make_or_that_comes_twice_is_refused(self, method, message):
        with pytest.raises(SoftPromptError, match=message):
            prompts_from(None, {"method": method})
        assert settings_from(None, {"steps": 7, "method": "ept"}) == TrainSettings(steps=7)

    def test_keywords_beside_what_they_would_make_are_refused(self):
        with pytest.raises(BadInput, match="lr belongs to the prompts; give it in prompts, or leave prompts out"):
            prompts_from([PromptSettings()], {"lr": 1.0})
        with pytest.raises(BadInput, match="steps belongs to the settings"):
            settings_from(TrainSettings(), {"steps": 1})
        with pytest.raises(BadInput, match="a run needs at least one prompt"):
            prompts_from([], {})
        with pytest.raises(BadInput, match="seeds is empty"):
            prompts_from(None, {"seeds": []})
        with pytest.raises(BadInput, match="label_column is for rows of your own"):
            task_from("lab/color", {"label_column": "x"})

    @pytest.mark.parametrize(
        ("keyword", "nearest"),
        [("step", "steps"), ("learning_rate", "lr"), ("text_colum", "text_column"), ("outptu", "output")],
    )
    def test_an_unknown_keyword_is_refused_with_the_nearest(self, keyword, nearest, tmp_path):
        with pytest.raises(UnknownName, match=f"unknown keyword of train '{keyword}'") as caught:
            train("lab/color", "lab-t5", **{"output": tmp_path / "run", keyword: 1})  # pyright: ignore  (by name)
        assert nearest in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_file_is_a_task_with_the_keywords_of_the_command_line(self, tmp_path):
        for name in ("a.csv", "b.csv"):
            pandas.DataFrame(ROWS).to_csv(tmp_path / name, index=False)
        columns = {"text_column": "text", "label_column": "label"}
        task = task_from(str(tmp_path / "a.csv"), {**columns, "test_data": tmp_path / "b.csv", "metrics": "accuracy"})
        assert task.source.files == {"train": str(tmp_path / "a.csv"), "test": str(tmp_path / "b.csv")}
        assert (task.columns, task.metrics) == (("text",), ("accuracy",))
        assert task_from(ROWS, {**columns, "validation_data": ROWS}).source.splits == ("train", "validation")
        assert task_from("lab/color", {"steps": 1}) == softprompt.task("lab/color")

    @pytest.mark.parametrize(
        ("template", "what"),
        [("{text} {label}", "column 'label' is the answer"), ("text", "template 'text' reads no column")],
    )
    def test_a_task_whose_template_shows_the_answer_or_nothing_is_refused_as_rows_are(self, template, what):
        own = dataclasses.replace(custom_task(ROWS, **COLUMNS), template=template)
        with pytest.raises(BadInput, match=what):
            task_from(own, {})
        with pytest.raises(BadInput, match=what):
            custom_task(ROWS, template=template, label_column="label")

    @pytest.mark.parametrize(("given", "what"), [(3, "a int"), ([], "an empty list"), ([3], "a list")])
    def test_what_is_neither_task_nor_rows_is_refused(self, given, what):
        with pytest.raises(BadInput, match=f"train takes a task, its name, a file, or rows .*, not {what}"):
            task_from(given, {"text_column": "text"})

    def test_the_default_output_names_task_methods_and_time(self):
        output = default_output("glue/sst2", ["ept", "ept", "p-tuning"])
        assert output.parent == Path("runs")
        assert re.fullmatch(r"glue-sst2-ept-p-tuning-\d{8}-\d{6}", output.name)
        many = default_output("mine", ["a", "b", "c", "d"])
        assert many.name.startswith("mine-a-b-c-and-more-2")

    def test_without_an_output_a_run_is_made_in_the_folder_of_its_task_and_method(self, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        columns: Any = {"text_column": "text", "label_column": "label"}
        made = train(ROWS, model, prompt_length=1, steps=1, eval_every=1, **columns)
        assert made.folder == next((tmp_path / "runs").glob("custom-rows-prompt-tuning-2*")).relative_to(tmp_path)


def test_a_prompt_loads_and_training_imports_no_pandas(run):
    assert SoftPrompt.load(run.folder).length == 2
    code = "import sys, softprompt.training, softprompt.tasks as t; t.custom_task([{'a': 'x', 'b': 'y'}, {'a': 'z', "
    code += "'b': 'w'}], text_columns=['a'], label_column='b'); "
    code += "print([m for m in ('pandas', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
