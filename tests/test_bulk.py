"""Answers to files: several prompts, formats, and a command that was killed."""

import json
from pathlib import Path

import pytest
import torch
from softprompt.backbones import load_backbone
from softprompt.cli._main import main
from softprompt.errors import BadInput
from softprompt.inference import bulk
from softprompt.inference.bulk import predict_file
from softprompt.inference.predict import predict
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.store import save_prompt
from softprompt.tasks import Task

from kit import review_rows

FIELDS = {"source": {"files": {"train": "x.csv"}}, "template": "{text}", "metrics": ["accuracy"]}


@pytest.fixture(scope="module")
def prompts(tiny_t5, save_tiny, tmp_path_factory):
    """Two prompts of one model with other labels, as they are stored."""
    root = tmp_path_factory.mktemp("bulk")
    save_tiny(root / "model", *tiny_t5())
    backbone = load_backbone(str(root / "model"))
    made = {}
    for number, (name, labels) in enumerate([("mood", ["bad", "good"]), ("truth", ["yes", "no", "0"])]):
        task = Task.from_json({"name": name, "labels": labels, **FIELDS}).to_json()
        vectors = torch.randn(2, 16, generator=torch.Generator().manual_seed(number))
        made[name] = SoftPrompt(vectors, Provenance("ept", backbone.identity(), task=task))
        save_prompt(made[name], root / name / "prompt")
    return root, made


@pytest.fixture
def rows(tmp_path):
    """A file of rows with ids, some of them blank."""
    path = tmp_path / "rows.jsonl"
    texts = [text for text, _ in review_rows(70, 0)]
    texts[20:40] = [" "] * 20
    path.write_text("".join(json.dumps({"id": f"r{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


def lines_of(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_prompt_answers_each_row_as_it_does_alone(prompts, rows, tmp_path):
    _, made = prompts
    told = []
    count = predict_file(
        made, rows, tmp_path / "out.jsonl", id_column="id", batch_size=2, tell=lambda *seen: told.append(seen)
    )
    found = lines_of(tmp_path / "out.jsonl")
    assert (count, [line["id"] for line in found]) == (70, [f"r{i}" for i in range(70)])
    for name, prompt in made.items():
        expected = predict(prompt, [row["text"] for row in lines_of(rows)])
        assert [line[name] for line in found] == [answer["label"] for answer in expected]
        for line, answer in zip(found, expected, strict=True):
            scores = {label: line[f"{name}.{label}"] for label in answer["scores"]}
            assert scores == pytest.approx(answer["scores"], abs=1e-5)
    # Twenty blank rows fill a whole chunk, and are answered as any others.
    assert [rows for rows, _ in told] == [16, 32, 48, 64, 70]
    assert all(rate > 0 for _, rate in told)


@pytest.mark.parametrize("torn", [0, 17])
def test_a_killed_command_goes_on_and_leaves_the_same_bytes(prompts, rows, tmp_path, monkeypatch, torn):
    _, made = prompts
    options = {"batch_size": 2, "id_column": "id"}
    predict_file(made, rows, tmp_path / "whole.jsonl", **options)
    answered, calls = bulk._answered, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answered(*arguments)

    monkeypatch.setattr(bulk, "_answered", killed)
    out, journal = tmp_path / "out.jsonl", tmp_path / ".out.jsonl.partial"
    with pytest.raises(KeyboardInterrupt):
        predict_file(made, rows, out, **options)
    assert not out.exists()
    # What a kill in the middle of a write leaves: some whole lines, and half of one.
    with journal.open("ab") as file:
        file.write(b'{"id": "r32", "mood": "bad"}\n{"id": "r3'[: torn * 4])
    monkeypatch.setattr(bulk, "_answered", lambda *arguments: calls.append(2) or answered(*arguments))
    predict_file(made, rows, out, **options)
    assert calls.count(2) == 3  # of five chunks, two were answered before
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not journal.exists()


@pytest.mark.parametrize("name", ["o.csv", "o.csv.gz", "o.tsv.zst", "o.jsonl.gz", "o.jsonl.zst", "o.parquet"])
def test_every_format_holds_the_same_answers(prompts, rows, tmp_path, name):
    import pandas

    _, made = prompts
    for other in ("o.jsonl", name):
        predict_file(made, rows, tmp_path / other, id_column="id")
    path = tmp_path / name
    if ".csv" in name or ".tsv" in name:
        found = pandas.read_csv(path, sep="\t" if ".tsv" in name else ",")
    else:
        found = pandas.read_parquet(path) if name.endswith(".parquet") else pandas.read_json(path, lines=True)
    pandas.testing.assert_frame_equal(found, pandas.read_json(tmp_path / "o.jsonl", lines=True), check_dtype=False)


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl.gz", "in.parquet", "in.txt"])
def test_every_format_is_read(prompts, tmp_path, name):
    import pandas

    texts = ["the film was good", "it is bad", "yes"]
    path, table = tmp_path / name, pandas.DataFrame({"text": texts})
    if name.endswith(".csv"):
        table.to_csv(path, index=False)
    elif name.endswith(".parquet"):
        table.to_parquet(path)
    elif name.endswith(".txt"):
        path.write_text("\n".join(texts) + "\n")
    else:
        table.to_json(path, orient="records", lines=True, compression="gzip")
    mood = {"mood": prompts[1]["mood"]}
    assert predict_file(mood, path, tmp_path / "out.jsonl") == 3
    found = lines_of(tmp_path / "out.jsonl")
    assert [line["row"] for line in found] == [1, 2, 3]
    assert [line["mood"] for line in found] == [answer["label"] for answer in predict(mood["mood"], texts)]


class TestRefused:
    def test_a_journal_of_other_prompts(self, prompts, rows, tmp_path):
        _, made = prompts
        (tmp_path / ".out.jsonl.partial").write_bytes(b"{}\n" + b"x" * 2000)
        with pytest.raises(BadInput, match="was left by a command with another file"):
            predict_file(made, rows, tmp_path / "out.jsonl")

    def test_an_output_that_exists_or_has_no_format(self, prompts, rows, tmp_path):
        (tmp_path / "out.jsonl").touch()
        with pytest.raises(BadInput, match="exists already"):
            predict_file(prompts[1], rows, tmp_path / "out.jsonl")
        with pytest.raises(BadInput, match="cannot tell the format"):
            predict_file(prompts[1], rows, tmp_path / "out.xlsx")

    def test_a_column_that_is_not_there(self, prompts, rows, tmp_path):
        with pytest.raises(BadInput, match=r"row 1 of .* has no column 'key'"):
            predict_file(prompts[1], rows, tmp_path / "out.jsonl", id_column="key")
        assert not (tmp_path / "out.jsonl").exists()

    def test_an_empty_file(self, prompts, tmp_path):
        (tmp_path / "e.jsonl").touch()
        with pytest.raises(BadInput, match="is empty"):
            predict_file(prompts[1], tmp_path / "e.jsonl", tmp_path / "out.jsonl")


class TestCommand:
    def test_writes_a_column_for_each_prompt(self, prompts, rows, tmp_path, capsys):
        root, _ = prompts
        arguments = ["predict", str(root / "mood"), "--file", str(rows), "--output", str(tmp_path / "o.csv"),
                     "--prompts", f"other={root / 'truth'}", "--id-column", "id"]  # fmt: skip
        assert main(arguments) == 0
        printed = capsys.readouterr()
        assert printed.out.strip() == str(tmp_path / "o.csv")
        assert "70 rows, " in printed.err
        assert (tmp_path / "o.csv").read_text().startswith("id,mood,mood.bad,mood.good,other,other.yes,")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--output", "o.csv"], "give --file FILE and no texts"),
            (["a text", "--id-column", "id"], "give --output and --file"),
            (["--file", "f.csv", "--output", "o.csv", "--task", "glue/sst2"], "leave --task out"),
            (["--file", "f.csv", "--output", "o.csv", "--prompts", "x/mood"], "two prompts would have the column"),
        ],
    )
    def test_options_that_do_not_fit_are_one_line(self, prompts, capsys, arguments, message):
        assert main(["predict", str(prompts[0] / "mood"), *arguments]) == 2
        assert message in capsys.readouterr().err
