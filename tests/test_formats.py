"""Files of rows in every format, and a line of its own for each that is of another kind than its name says."""

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from softprompt.cli import main
from softprompt.data import load_rows
from softprompt.errors import BadInput, UnknownName
from softprompt.inference.predict import as_row
from softprompt.tasks import Task, custom_task

ROWS = [{"text": f"words {i}", "label": "ab"[i % 2]} for i in range(4)]
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)


def written(path: Path, content: str | bytes) -> Path:
    content = content if isinstance(content, bytes) else content.encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        with pyarrow.output_stream(str(path), compression="zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(content)
    return path


def declared(files, **options) -> Task:
    return custom_task(files, **{"text_columns": ["text"], "label_column": "label", **options})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.tsv.gz", CSV.replace(",", "\t")),
        ("a.csv.zst", CSV),
        ("a.jsonl.zst", "\n".join(map(json.dumps, ROWS))),
        ("a.ndjson", "\n".join(map(json.dumps, ROWS))),
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json.gz", json.dumps(ROWS)),
        ("a.json", json.dumps({f"id-{i}": row for i, row in enumerate(ROWS)})),
        ("a.json", "\n".join(map(json.dumps, ROWS))),
    ],
    ids=["tsv", "tsv.gz", "csv.zst", "jsonl.zst", "ndjson", "array", "indented", "json.gz", "by id", "lines in .json"],
)
def test_each_format_holds_the_same_rows(name: str, content: str, tmp_path: Path):
    assert load_rows(declared(written(tmp_path / name, content)))["train"].to_list() == ROWS


def test_the_ids_of_an_object_of_rows_are_a_column(tmp_path: Path):
    path = written(tmp_path / "a.json", json.dumps({"x": {"label": "a"}, "y": {"label": "b", "id": "mine"}}))
    assert [row["id"] for row in load_rows(declared(path, text_columns=["id"]))["train"]] == ["x", "mine"]


def test_the_delimiter_is_the_one_that_is_given_and_the_task_keeps_it(tmp_path: Path):
    path = written(tmp_path / "a.csv", CSV.replace(",", ";"))
    task = declared(path, delimiter=";")
    assert load_rows(Task.from_json(json.loads(json.dumps(task.to_json()))))["train"].to_list() == ROWS
    tabs = written(tmp_path / "b.csv", CSV.replace(",", "\t"))
    assert load_rows(declared(tabs, delimiter="tab"))["train"].to_list() == ROWS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_two_quotes_of_a_file_that_quotes_nothing_swallow_no_row(end: str, tmp_path: Path):
    lines = ["text\tlabel", "one\ta", '"We went\ta', 'home"\tb', "two\tb", '"a ""quote""\there"\tb', '"b\nc"\ta', ""]
    path = written(tmp_path / "a.tsv", end.join(lines))
    with pytest.raises(BadInput, match=r"a\.tsv:3: a tab and the end of a line stand between two quotes; .*; repair"):
        load_rows(declared(path))
    kept = load_rows(declared(path), max_bad_rows=1)["train"].columns["text"]
    assert kept == ["one", "two", 'a "quote"\there', "b\nc"]


@pytest.mark.parametrize("delimiter", [";;", '"', "\n", "semicolon"])
def test_a_delimiter_that_is_none_is_refused(delimiter: str, tmp_path: Path):
    with pytest.raises(BadInput, match="the delimiter is one character"):
        declared(written(tmp_path / "a.csv", CSV), delimiter=delimiter)


def test_a_delimiter_is_refused_for_files_without_one(tmp_path: Path):
    with pytest.raises(BadInput, match=r"a delimiter separates the fields of CSV and TSV; '.*a\.json' has none"):
        declared(written(tmp_path / "a.json", json.dumps(ROWS)), delimiter=";")


def test_several_files_and_globs_are_one_split_in_order_and_faults_name_the_file(tmp_path: Path):
    for name, row in (("part-2.csv", "two,b"), ("part-1.csv", "one,a"), ("more.csv", "three,c")):
        written(tmp_path / name, f"text,label\n{row}\n")
    task = declared([str(tmp_path / "part-*.csv"), tmp_path / "more.csv"])
    assert [row["text"] for row in load_rows(task)["train"]] == ["one", "two", "three"]
    assert (task.labels, task.name) == (("a", "b", "c"), "custom/part-1")
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    written(tmp_path / "part-2.csv", "text,label\ntwo,b\nfour,\n")
    with pytest.raises(BadInput, match=r"part-2\.csv:3: column 'label' is empty"):
        load_rows(task)


def test_a_file_that_a_split_names_twice_is_refused_by_whatever_name(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    path = written(tmp_path / "part-1.csv", CSV)
    (tmp_path / "link.csv").symlink_to(path)
    around = str(tmp_path / "folder" / ".." / "part-1.csv")
    for other in (str(path), around, str(tmp_path / "part-*.csv"), str(tmp_path / "link.csv")):
        with pytest.raises(
            BadInput, match=r"(' is '.*part-1\.csv' again|stands there twice), so that its rows would be read twice"
        ):
            declared([path, other])
    # A program may mean to score a prompt on the rows that it was trained on, and is told of it there.
    both = {"train": path, "test": around}
    assert custom_task(both, text_columns=["text"], label_column="label").source.splits == ("train", "test")


def test_a_glob_without_a_file_is_named_and_a_file_may_have_brackets_in_its_name(tmp_path: Path):
    with pytest.raises(BadInput, match=r"no file matches '.*part-\*\.csv'"):
        declared(tmp_path / "part-*.csv")
    assert load_rows(declared(written(tmp_path / "a[1].csv", CSV)))["train"].to_list() == ROWS


def test_fields_of_objects_are_columns_by_their_dots(tmp_path: Path):
    rows = [{"post": {"user": {"name": n}, "tags": [n]}, "y": {"z": n}, "a.b": n} for n in ("p", "q")]
    path = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    task = custom_task(path, template="{post.user.name} {a.b}", label_column="y.z")
    assert (task.columns, task.labels) == (("post.user.name", "a.b"), ("p", "q"))
    assert load_rows(task)["train"][0] == {"post.user.name": "p", "a.b": "p", "y.z": "p"}
    assert task.render(as_row(task, rows[1])).text == "q q"
    texts = custom_task(path, text_columns=["a.b"], target_column="post.tags")
    assert load_rows(texts)["train"][1]["post.tags"] == ["q"]
    with pytest.raises(UnknownName, match=r"unknown column 'post\.user\.nam'\. Did you mean 'post\.user\.name'"):
        load_rows(custom_task(path, text_columns=["post.user.nam"], label_column="y.z"))
    with pytest.raises(UnknownName, match=r"unknown column 'y\.x'\. Did you mean 'y\.z'"):
        custom_task(path, text_columns=["a.b"], label_column="y.x")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.csv", CSV.replace(",", ";"), r"a\.csv:1: .* 'text;label', .*separated by ';'; give delimiter=';'$"),
        ("a.csv", CSV.replace(",", "\t"), r"a\.csv:1: .*; give delimiter='tab'$"),
        ("a.tsv", CSV, r"a\.tsv:1: .* separated by ','"),
        ("a.csv", CSV.encode("utf-16"), r"'.*a\.csv' is UTF-16"),
        ("a.csv", CSV.encode("utf-16-be"), r"'.*a\.csv' is UTF-16"),
        ("a.jsonl", json.dumps(ROWS[0]).encode("utf-16-le"), r"'.*a\.jsonl' is UTF-16"),
        ("a.csv", b"PK\x03\x04\0\0\0\0", "is a zip archive or a workbook; save its sheet as CSV"),
        (
            "a.csv",
            'text,label\n"one,a\ntwo,b\n',
            r"a\.csv:2: not CSV \(a quote opens in this row and is never closed\)",
        ),
        ("a.csv", 'text,label\none,a\n"two" x,b\n', r"a\.csv:3: not CSV \(.*write quotes inside it twice\)"),
        ("a.csv", 'text,label\n"' + 2**21 * "x" + "\n", r"a\.csv:2: not CSV \(a field is longer .* is a quote open"),
        ("a.jsonl", json.dumps(ROWS), r"a\.jsonl:1: this is a JSON array, .*; call the file \.json"),
        ("a.jsonl", json.dumps(ROWS, indent=1), r"a\.jsonl:1: this is a JSON array"),
        ("a.json", '[{"text": "x",\n "label" "y"}]', r"a\.json:2: not JSON \(Expecting ':' delimiter: column 10\)"),
        ("a.json", '{"text": ["x"], "label": ["y"]}', r"holds an object of 'text', 'label', some of them arrays"),
        ("a.json", '{"text": {"0": "x"}, "label": {"0": "y"}}', r"is a table by columns \('text', 'label'\)"),
        ("a.json", "3", "holds no rows; give an array of objects"),
        ("a.csv.zst", b"no zst", "cannot read"),
    ],
)
def test_a_file_of_another_kind_than_its_name_says_has_a_line_of_its_own(name, content, what, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=what) as caught:
        load_rows(declared(path))
    assert "\n" not in str(caught.value)


def test_the_command_line_takes_globs_several_files_and_a_delimiter(tmp_path: Path, monkeypatch, capsys):
    for number in (1, 2):
        written(tmp_path / f"part-{number}.csv", CSV.replace(",", ";"))
    asked = {}
    monkeypatch.setattr("softprompt.training.train", lambda task, model, **options: asked.update(task=task) or 1 / 0)
    words = ["--text-column", "text", "--label-column", "label", "--delimiter", ";", "--model", "lab-t5"]
    both = [word for number in (1, 2) for word in ("--data", str(tmp_path / f"part-{number}.csv"))]
    for data in (["--data", str(tmp_path / "part-*.csv")], both):
        with pytest.raises(ZeroDivisionError):
            main(["train", *data, *words])
        assert len(load_rows(asked["task"])["train"]) == 2 * len(ROWS)
