"""Labels that are one thing to a person are never two classes, and what is no class is not made one."""

import json
import logging
from pathlib import Path

import pytest
from softprompt.data import load_rows
from softprompt.errors import BadInput
from softprompt.tasks import Task, Wording, class_of, custom_task, rephrased


def task_of(path: Path, labels, **options):
    """A task of a CSV file with these labels in lines 2, 3 ..., or of JSON Lines."""
    if path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"x,{label}\n" for label in labels))
    else:
        path.write_text("".join(json.dumps({"text": "x", "label": label}) + "\n" for label in labels))
    return custom_task(path, text_columns=["text"], label_column="label", **options)


@pytest.mark.parametrize(
    ("name", "labels", "what"),
    [
        ("a.csv", ["1", "0", "1.0"], r"labels '1' \(.*a\.csv:2\) and '1\.0' \(.*a\.csv:4\) read alike"),
        ("a.csv", ["1", "0", "01", "01"], r"labels '1' \(.*a\.csv:2\) and '01' \(.*a\.csv:4, 2 rows\) read alike"),
        ("a.jsonl", [1, 0, "1"], r"labels 1 \(.*a\.jsonl:1\) and '1' \(.*a\.jsonl:3\) read alike"),
        ("a.jsonl", [True, False, "true"], r"labels True \(.*:1\) and 'true' \(.*:3\) read alike"),
        ("a.csv", ["Yes", "no", "yes"], r"labels 'Yes' .*:2\) and 'yes' .*:4\) read alike"),
        ("a.csv", ["caf\u00e9", "no", "cafe\u0301"], "read alike"),
        ("a.csv", ["a", "b "], r"label 'b ' \(.*a\.csv:3\) has blanks around it"),
        ("a.csv", ["a", "b\u00a0"], "has blanks around it"),
        ("a.csv", ["a", "b", "nan", "nan"], r"label 'nan' \(.*a\.csv:4, 2 rows\) reads like a missing value"),
        ("a.jsonl", ["a", "b", "None"], r"label 'None' \(.*a\.jsonl:3\) reads like a missing value"),
        (
            "a.csv",
            ["0.37", "1", "2.5"],
            r"column 'label' holds numbers with a fraction, as '0\.37' \(.*a\.csv:2\), and 3",
        ),
        ("a.jsonl", [0.37, 1, 2.5], r"numbers with a fraction, as 0\.37 \(.*a\.jsonl:1\), and 3 different"),
    ],
)
def test_labels_that_read_alike_or_like_no_class_are_refused_with_their_rows(name, labels, what, tmp_path: Path):
    with pytest.raises(BadInput, match=what):
        task_of(tmp_path / name, labels)


@pytest.mark.parametrize(
    ("name", "labels"),
    [("a.csv", ["1", "1.0"]), ("a.csv", ["Yes", "yes"]), ("a.csv", ["x", "nan"]), ("a.jsonl", [0.5, 1.5])],
)
def test_labels_that_the_user_names_one_by_one_are_taken(name, labels, tmp_path: Path):
    words = {str(label): word for label, word in zip(labels, ("first", "second"), strict=True)}
    task = task_of(tmp_path / name, labels, label_words=words)
    assert dict(zip(task.label_values, task.labels, strict=True)) == dict(zip(labels, words.values(), strict=True))


@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [
        ("a.jsonl", [1.0, 0.0, 1], ("0", "1")),
        ("a.jsonl", ["b", 1], ("1", "b")),
        ("a.jsonl", [True, False], ("False", "True")),
        ("a.csv", ["none", "v1.0", "v1"], ("none", "v1", "v1.0")),
        ("a.csv", ["0.5", "half"], ("0.5", "half")),
    ],
)
def test_labels_that_are_different_things_are_classes(name, labels, words, tmp_path: Path):
    assert task_of(tmp_path / name, labels).labels == words


@pytest.mark.parametrize(
    ("name", "written", "texts"),
    [
        ("a.jsonl", (0.5, 1.0, 1.5), ("0.5", "1.0", "1.5")),
        ("a.jsonl", (0.5, 1, 1.5), ("0.5", "1", "1.5")),
        ("a.jsonl", ("half", 1.0, 2.0), ("half", "1", "2")),
        ("a.csv", (0.5, 1.0, 1.5), ("0.5", "1.0", "1.5")),
    ],
)
def test_a_whole_number_is_one_label_with_or_without_its_fraction(name, written, texts, tmp_path: Path):
    words = ("one", "two", "three")
    task = task_of(tmp_path / name, written, label_words=dict(zip(written, words, strict=True)))
    rows = load_rows(task)["train"]
    assert [task.labels[class_of(task, row["label"])] for row in rows] == list(words)
    # As the command line has them, and as a prompt's own words are replaced.
    others = {text: word.upper() for text, word in zip(texts, words, strict=True)}
    again = task_of(tmp_path / name, written, label_words=others)
    assert again.labels == rephrased(task, Wording(label_words=others)).labels == tuple(map(str.upper, task.labels))
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_labels_of_another_file_are_found_by_their_number(tmp_path: Path):
    of_texts, of_numbers = task_of(tmp_path / "a.csv", [0, 1]), task_of(tmp_path / "a.jsonl", [0, 1])
    # A column of pandas with an empty cell holds 1.0.
    assert class_of(of_texts, 1.0) == class_of(of_numbers, "1.0") == class_of(of_numbers, True) == 1
    for task, value in ((of_texts, "1.0"), (of_texts, 1.5), (of_numbers, "x"), (of_numbers, float("nan"))):
        with pytest.raises(BadInput, match="is not one of"):
            class_of(task, value)


def test_empty_labels_are_no_class_but_malformed_rows(tmp_path: Path):
    assert task_of(tmp_path / "a.jsonl", ["a", None, "b", "", float("nan")]).labels == ("a", "b")


def test_many_classes_of_one_row_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "softprompt"):
        task_of(tmp_path / "a.csv", [*range(30), 3])
    assert "column 'label' has 30 labels in 31 rows; are they classes" in caplog.text


def test_a_file_whose_labels_a_fault_hides_is_refused_by_the_fault(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"x,a\ny,b\n')
    with pytest.raises(BadInput, match=r"a\.csv:2: not CSV \(a quote opens in this row and is never closed\)"):
        custom_task(path, text_columns=["text"], label_column="label")
