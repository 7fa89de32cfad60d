"""Answers to files: several prompts, formats, and a command that was killed."""

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.cli._main import main
from softprompt.errors import BadInput, DamagedFile, StorageFailure
from softprompt.inference._journal import Journal
from softprompt.inference.bulk import _rows, predict_file
from softprompt.inference.calibration import Calibration
from softprompt.inference.predict import predict
from softprompt.inference.scoring import Scoring
from softprompt.inference.together import Pass
from softprompt.prompts.prompt import LinearHead, Provenance, SoftPrompt
from softprompt.settings import ModelSpec
from softprompt.store import save_prompt
from softprompt.tasks import Task, task

from kit import review_rows

FIELDS = {"source": {"files": {"train": "x.csv"}}, "template": "{text}", "metrics": ["accuracy"]}


@pytest.fixture(scope="module")
def prompts(tiny_t5, save_tiny, tmp_path_factory):
    """Two prompts of one model with other labels, as they are stored."""
    root = tmp_path_factory.mktemp("bulk")
    save_tiny(root / "model", *tiny_t5())
    backbone = load_backbone(str(root / "model"))
    made = {}
    # The first is calibrated, so that its answers are others than its scores.
    fitted = Calibration(2.0, (1.0, -1.0), ("bad", "good"))
    for number, (name, labels) in enumerate([("mood", ["bad", "good"]), ("truth", ["yes", "no", "0"])]):
        record = Task.from_json({"name": name, "labels": labels, **FIELDS}).to_json()
        vectors = torch.randn(2, 16, generator=torch.Generator().manual_seed(number))
        scoring = {} if number else Scoring(calibration=fitted).to_json()
        made[name] = SoftPrompt(vectors, Provenance("ept", backbone.identity(), task=record, scoring=scoring))
        save_prompt(made[name], root / name / "prompt")
    return root, made, backbone


@pytest.fixture
def rows(tmp_path):
    """A file of rows with ids, some of them blank."""
    path = tmp_path / "rows.jsonl"
    texts = [text for text, _ in review_rows(38, 0)]
    texts[8:20] = [" "] * 12
    path.write_text("".join(json.dumps({"id": f"r{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


def test_blank_rows_are_counted_once_and_no_tokens_are_left_in_the_cache(prompts, rows, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SOFTPROMPT_CACHE", str(tmp_path / "cache"))
    assert predict_file(prompts[1], rows, tmp_path / "out.jsonl", model=prompts[2], batch_size=1) == 38
    assert [line for line in caplog.messages if "blank" in line] == [
        f"12 of 38 inputs are blank, the first is {rows}:9: an answer to one says nothing"
    ]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("line", ['{"id": "x", "text": null}', '{"id": "' + "x " * 999 + '", "text": "a"}'])
def test_a_row_that_cannot_be_read_has_its_line_in_the_whole_file(prompts, rows, line, tmp_path):
    _, made, backbone = prompts
    more = {"template": "{id} {text}", "truncate": ["text"], "max_length": 32}
    record = Task.from_json({**made["mood"].provenance.task, **more}).to_json()
    prompt = dataclasses.replace(made["mood"], provenance=dataclasses.replace(made["mood"].provenance, task=record))
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([*lines, line, *lines]) + "\n")
    with pytest.raises(BadInput, match=r"rows\.jsonl:39[: ]"):
        predict_file({"mood": prompt}, rows, tmp_path / "out.jsonl", model=backbone, batch_size=2)


def test_bytes_that_are_not_utf_8_are_one_line(prompts, tmp_path):
    _, made, backbone = prompts
    rows = tmp_path / "rows.csv"
    rows.write_bytes("text\nanna bought café\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"rows\.csv:2: column 'text' holds bytes that are not UTF-8"):
        predict_file({"mood": made["mood"]}, rows, tmp_path / "out.jsonl", model=backbone)
    with pytest.raises(BadInput, match="column 'text' holds bytes that are not UTF-8"):
        predict(made["mood"], ["a \ud800 b"], model=backbone)


def test_a_folder_that_is_not_there_is_told_of_before_the_model_is_loaded(prompts, rows, tmp_path, monkeypatch):
    _, made, _ = prompts
    monkeypatch.setattr("softprompt.inference.bulk.LoadedModels", None)
    folder = tmp_path / "nodir"
    with pytest.raises(BadInput, match=f"^no folder '{folder}' for the answers; make it, or choose another place$"):
        predict_file(made, rows, folder / "o.csv")
    folder.write_text("a file")
    with pytest.raises(StorageFailure, match="nodir' is no folder; choose another place"):
        predict_file(made, rows, folder / "o.csv")


def lines_of(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def passes(monkeypatch):
    """For each pass of the model the names of its prompts, as it is made."""
    made, answers = [], Pass.answers

    def counted(self, prompt_batch):
        made.append({self.group.responders[number].name for _, number in self.cells})
        return answers(self, prompt_batch)

    monkeypatch.setattr(Pass, "answers", counted)
    return made


def assert_as_alone(made, found, rows, backbone):
    """Whether each row has every prompt's own answer in its own columns."""
    for name, prompt in made.items():
        expected = predict(prompt, [row["text"] for row in rows], model=backbone)
        assert [line[name] for line in found] == [answer["label"] for answer in expected]
        for line, answer in zip(found, expected, strict=True):
            scores = {label: line[f"{name}.{label}"] for label in answer["scores"]}
            assert scores == pytest.approx(answer["scores"], abs=1e-5)


def test_prompts_of_several_tasks_answer_each_row_in_one_pass_as_they_do_alone(prompts, rows, tmp_path, passes):
    _, made, backbone = prompts
    progress = []
    count = predict_file(
        made,
        rows,
        tmp_path / "out.jsonl",
        id_column="id",
        model=backbone,
        batch_size=8,
        tell=lambda *seen: progress.append(seen),
    )
    found = lines_of(tmp_path / "out.jsonl")
    assert (count, [line["id"] for line in found]) == (38, [f"r{i}" for i in range(38)])
    assert list(found[0]) == ["id", "mood", "mood.bad", "mood.good", "truth", "truth.yes", "truth.no", "truth.0"]
    assert_as_alone(made, found, lines_of(rows), backbone)
    # 38 rows with two prompts each, eight in a pass, of which all hold both prompts.
    assert passes == [{"mood", "truth"}] * 10
    assert [answered for answered, _ in progress] == [*range(4, 38, 4), 38]
    assert all(rate > 0 for _, rate in progress)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize(
    ("name", "torn"),
    [
        ("out.jsonl", b'{"row": 17, "prompt": "mood", "id": "r17", "val'),
        ("out.csv.gz", b""),
        ("out.jsonl.zst", b"\0\0\0\n[]\n"),
        ("out.parquet", b'{"row": 17'),
    ],
)
def test_a_killed_command_answers_no_row_twice_and_leaves_the_same_bytes(
    prompts, rows, tmp_path, monkeypatch, passes, name, torn
):
    _, made, backbone = prompts
    options = {"batch_size": 4, "id_column": "id", "model": backbone}
    whole = tmp_path / f"whole.{name}"
    predict_file(made, rows, whole, **options)
    count, kept, out = len(passes), Pass.answers, tmp_path / name

    def killed(self, prompt_batch):
        if len(passes) == count + 5:
            raise Killed
        return kept(self, prompt_batch)

    monkeypatch.setattr(Pass, "answers", killed)
    with pytest.raises(Killed):
        predict_file(made, rows, out, **options)
    assert not out.exists()
    journal = tmp_path / f".{name}.partial"
    if torn:
        with journal.open("ab") as file:
            file.write(torn)
    monkeypatch.setattr(Pass, "answers", kept)
    passes.clear()
    assert predict_file(made, rows, out, **options) == 38
    assert len(passes) == count - 5
    assert out.read_bytes() == whole.read_bytes()
    # No time of writing, which would differ.
    assert not name.endswith(".gz") or out.read_bytes()[4:8] == b"\0\0\0\0"
    assert not journal.exists()


@pytest.mark.parametrize("change", ["a digit", "another prompt", "a line twice"])
def test_a_changed_line_of_the_journal_is_named_and_its_rows_are_answered_again(
    prompts, rows, tmp_path, monkeypatch, caplog, change
):
    _, made, backbone = prompts
    predict_file(made, rows, tmp_path / "whole.csv", model=backbone, batch_size=8)
    with monkeypatch.context() as patch:
        patch.setattr("softprompt.inference.bulk.write_rows", killing)
        with pytest.raises(Killed):
            predict_file(made, rows, tmp_path / "out.csv", model=backbone, batch_size=8)
    journal = tmp_path / ".out.csv.partial"
    lines = journal.read_bytes().splitlines(keepends=True)
    # The last line is missing besides.
    if change == "a line twice":
        lines[40:-1] = [lines[39], *lines[40:-2]]
    elif change == "another prompt":
        lines[40] = lines[40].replace(b'"mood"', b'"truth"').replace(b"0.", b"0.9")
    else:
        lines[40] = re.sub(rb"0\.\d", b"0.25", lines[40], count=1)
    journal.write_bytes(b"".join(lines[:-1]))
    predict_file(made, rows, tmp_path / "out.csv", model=backbone, batch_size=8)
    assert "is damaged in line 41" in caplog.text
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_of_a_pass_that_was_half_written_the_other_half_is_added(prompts, rows, tmp_path, monkeypatch):
    _, made, backbone = prompts
    predict_file(made, rows, tmp_path / "whole.jsonl", model=backbone, batch_size=8)
    monkeypatch.setattr("softprompt.inference.bulk.write_rows", killing)
    with pytest.raises(Killed):
        predict_file(made, rows, tmp_path / "out.jsonl", model=backbone, batch_size=8)
    monkeypatch.undo()
    journal = tmp_path / ".out.jsonl.partial"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 76
    # The first line says whose answers these are; 43 answers are five passes and three rows.
    journal.write_bytes(b"".join(lines[:44]))
    # What is known is not kept twice, so rows are counted once.
    assert predict_file(made, rows, tmp_path / "out.jsonl", model=backbone, batch_size=8) == 38
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def killing(*arguments, **options):
    raise Killed


def test_a_kill_before_the_output_is_written_costs_no_pass(prompts, rows, tmp_path, monkeypatch, passes):
    _, made, backbone = prompts
    with monkeypatch.context() as patch:
        patch.setattr("softprompt.inference.bulk.write_rows", killing)
        with pytest.raises(Killed):
            predict_file(made, rows, tmp_path / "out.csv", model=backbone)
    passes.clear()
    assert predict_file(made, rows, tmp_path / "out.csv", model=backbone) == 38
    assert passes == []
    assert [line.split(",")[0] for line in (tmp_path / "out.csv").read_text().splitlines()][::19] == ["row", "19", "38"]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_kill_between_the_output_and_the_removal_of_the_journal_is_mended(
    prompts, rows, tmp_path, monkeypatch, passes, is_whole
):
    _, made, backbone = prompts
    with monkeypatch.context() as patch:
        patch.setattr("softprompt.inference.bulk.write_rows", killing)
        with pytest.raises(Killed):
            predict_file(made, rows, tmp_path / "out.csv", model=backbone)
    passes.clear()
    (tmp_path / "out.csv").write_text("whole\n")
    journal = tmp_path / ".out.csv.partial"
    if is_whole:
        assert predict_file(made, rows, tmp_path / "out.csv", model=backbone) == 38
    else:
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
        with pytest.raises(BadInput, match="exists already"):
            predict_file(made, rows, tmp_path / "out.csv", model=backbone)
    assert (passes, journal.exists()) == ([], not is_whole)
    assert (tmp_path / "out.csv").read_text() == "whole\n"


def test_heads_of_as_many_classes_share_a_pass_and_others_do_not(tiny_bert, tmp_path, passes):
    backbone = from_model(*tiny_bert(), answers="linear-head")
    draw, made = torch.Generator().manual_seed(0), {}
    for name, labels in (("a", ["x", "y"]), ("b", ["no", "yes"]), ("c", ["1", "2", "3"])):
        record = Task.from_json({"name": name, "labels": labels, **FIELDS}).to_json()
        head = LinearHead(torch.randn(len(labels), 16, generator=draw), torch.randn(len(labels), generator=draw))
        provenance = Provenance("ept", backbone.identity(), "linear-head", task=record)
        made[name] = SoftPrompt(torch.randn(2, 16, generator=draw), provenance, head=head)
    (tmp_path / "rows.txt").write_text("the film was good\nit is bad\n")
    predict_file(made, tmp_path / "rows.txt", tmp_path / "out.jsonl", model=backbone)
    assert passes == [{"a", "b"}, {"c"}]
    for name, prompt in made.items():
        expected = predict(prompt, ["the film was good", "it is bad"], model=backbone)
        for line, answer in zip(lines_of(tmp_path / "out.jsonl"), expected, strict=True):
            scores = [line[f"{name}.{label}"] for label in answer["scores"]]
            assert (line[name], scores) == (answer["label"], pytest.approx([*answer["scores"].values()], abs=1e-5))


def test_long_texts_are_read_in_windows_by_one_prompt_a_pass(prompts, tmp_path, passes):
    backbone, made = prompts[2], {}
    squad = dataclasses.replace(task("mrqa/squad"), max_length=48, stride=8)
    words = " ".join(f"w{n}" for n in range(16))
    rows = [{"question": "who is it?", "context": c} for c in ("mary is here .", f"{words} it is mary . {words}")]
    for seed in range(2):
        vectors = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed)) * 4
        made[f"p{seed}"] = SoftPrompt(vectors, Provenance("ept", backbone.identity(), task=squad.to_json()))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict_file(made, tmp_path / "rows.jsonl", tmp_path / "out.jsonl", model=backbone)
    assert passes == [{"p0"}, {"p1"}]
    found = lines_of(tmp_path / "out.jsonl")
    for name, prompt in made.items():
        assert [line[name] for line in found] == [a["output"] for a in predict(prompt, rows, model=backbone)]


def test_texts_are_written_in_one_pass_as_alone(tiny_gpt, tmp_path, passes):
    backbone = from_model(*tiny_gpt("llama"))
    fields = {"source": {"files": {"train": "x.csv"}}, "template": "{text}", "target": "answer", "answer": "text",
              "metrics": ["exact_match"]}  # fmt: skip
    texts, made = ["the film was good", "it is very bad , and not in paris"], {}
    for seed, length in enumerate((1, 4)):
        record = Task.from_json({"name": f"t{seed}", "cue": " answer:"[: 8 * seed], **fields}).to_json()
        vectors = torch.randn(length, 16, generator=torch.Generator().manual_seed(seed)) * 4
        made[f"p{seed}"] = SoftPrompt(vectors, Provenance("ept", backbone.identity(), backbone.answers, task=record))
    (tmp_path / "rows.txt").write_text("\n".join(texts))
    predict_file(made, tmp_path / "rows.txt", tmp_path / "out.jsonl", model=backbone)
    found = lines_of(tmp_path / "out.jsonl")
    assert passes == [{"p0", "p1"}]
    for name, prompt in made.items():
        assert [line[name] for line in found] == [a["output"] for a in predict(prompt, texts, model=backbone)]
    assert found[0]["p0"] != found[0]["p1"]


@pytest.mark.parametrize("name", ["o.csv", "o.csv.gz", "o.tsv.zst", "o.jsonl.gz", "o.jsonl.zst", "o.parquet"])
def test_every_format_holds_the_same_answers(prompts, rows, tmp_path, name):
    import pandas

    _, made, backbone = prompts
    for other in ("o.jsonl", name):
        predict_file(made, rows, tmp_path / other, id_column="id", model=backbone)
    path = tmp_path / name
    if ".csv" in name or ".tsv" in name:
        found = pandas.read_csv(path, sep="\t" if ".tsv" in name else ",")
    else:
        found = pandas.read_parquet(path) if name.endswith(".parquet") else pandas.read_json(path, lines=True)
    pandas.testing.assert_frame_equal(found, pandas.read_json(tmp_path / "o.jsonl", lines=True), check_dtype=False)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_a_kept_column_may_be_called_row_and_hold_ends_of_lines(prompts, tmp_path, ending):
    import pandas

    kept = ["a\rb", "c\r\nd", "e\nf", "g\t,h"]
    source, output = tmp_path / "rows.jsonl", tmp_path / f"o.{ending}"
    source.write_text("".join(json.dumps({"row": value, "text": "good"}) + "\n" for value in kept))
    predict_file({"mood": prompts[1]["mood"]}, source, output, id_column="row", model=prompts[2])
    if ending in ("csv", "tsv"):
        with output.open(newline="") as file:
            found = [line["row"] for line in csv.DictReader(file, delimiter="," if ending == "csv" else "\t")]
        assert len(pandas.read_csv(output, sep="," if ending == "csv" else "\t")) == len(kept)
    else:
        read = pandas.read_parquet(output) if ending == "parquet" else pandas.read_json(output, lines=True)
        found = read["row"].tolist()
    assert found == kept


def test_a_prompt_may_be_called_row_beside_a_kept_column(prompts, rows, tmp_path):
    import pandas

    predict_file({"row": prompts[1]["mood"]}, rows, tmp_path / "o.parquet", id_column="id", model=prompts[2])
    assert set(pandas.read_parquet(tmp_path / "o.parquet")["row"]) <= {"good", "bad"}


def test_lines_end_at_new_lines_alone_and_keep_what_stands_in_them(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes("\ufeff good \r\nbad\u2028film\x0c\nend".encode())
    assert [text for _, text in _rows(path, "")] == [" good ", "bad\u2028film\x0c", "end"]


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
    assert predict_file(mood, path, tmp_path / "out.jsonl", model=prompts[2]) == 3
    found = lines_of(tmp_path / "out.jsonl")
    assert [line["row"] for line in found] == [1, 2, 3]
    assert [line["mood"] for line in found] == [
        answer["label"] for answer in predict(mood["mood"], texts, model=prompts[2])
    ]


class TestRefused:
    @pytest.mark.parametrize(
        "change", ["prompts", "label words", "calibration", "precision", "engine", "batch_size", "file", "version"]
    )
    def test_a_journal_of_another_command(self, prompts, rows, tmp_path, monkeypatch, change):
        _, made, backbone = prompts
        given: dict[str, Any] = {"prompts": made, "source": rows, "output": tmp_path / "out.csv", "model": backbone}
        with monkeypatch.context() as patch:
            patch.setattr("softprompt.inference.bulk.write_rows", killing)
            with pytest.raises(Killed):
                predict_file(**given)
        journal = tmp_path / ".out.csv.partial"
        if change == "prompts":
            # The same names, other vectors.
            other = dataclasses.replace(made["mood"], vectors=made["mood"].vectors + 1e-3)
            given["prompts"] = {**made, "mood": other}
        elif change in ("label words", "calibration"):
            changed = {"scoring": {}} if change == "calibration" else {"task": made["truth"].provenance.task}
            provenance = dataclasses.replace(made["mood"].provenance, **changed)
            given["prompts"] = {**made, "mood": dataclasses.replace(made["mood"], provenance=provenance)}
        elif change in ("precision", "engine"):
            given["model"] = ModelSpec(engine="reference") if change == "engine" else ModelSpec(dtype="float64")
        elif change == "file":
            rows.write_text(rows.read_text() + '{"id": "more", "text": "good"}\n')
        elif change == "version":
            journal.write_bytes(journal.read_bytes().replace(b'"version": 3', b'"version": 2', 1))
        else:
            given["batch_size"] = 16
        content = journal.read_bytes()
        with pytest.raises(BadInput, match="was left by a command with another file"):
            predict_file(**given)
        assert journal.read_bytes() == content
        assert not (tmp_path / "out.csv").exists()

    def test_a_command_whose_answers_another_one_is_writing(self, prompts, rows, tmp_path):
        _, made, backbone = prompts
        given: dict[str, Any] = {"source": rows, "output": tmp_path / "out.csv", "model": backbone}

        def second(*seen: Any) -> None:
            with pytest.raises(BadInput, match=r"^another command is writing answers into '\S*out\.csv'; wait for it"):
                predict_file(made, **given)

        assert predict_file(made, **given, tell=second) == 38
        assert len((tmp_path / "out.csv").read_text().splitlines()) == 39
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "rows.jsonl"]

    def test_a_journal_whose_earlier_rows_come_again(self, tmp_path):
        journal = Journal(tmp_path / "journal", {}, {"a": ["a"]}, 2)
        with journal:
            for row in (0, 1, 2, 3, 0, 1):
                journal.add([((row, "a"), row, ["yes"])])
        with pytest.raises(DamagedFile, match="has answers to row 1 twice; remove it and repeat the command"):
            list(journal.lines("row"))

    def test_an_output_that_exists_or_has_no_format(self, prompts, rows, tmp_path):
        (tmp_path / "out.jsonl").touch()
        with pytest.raises(BadInput, match="exists already"):
            predict_file(prompts[1], rows, tmp_path / "out.jsonl", model=prompts[2])
        assert not (tmp_path / ".out.jsonl.partial").exists()
        with pytest.raises(BadInput, match="cannot tell the format"):
            predict_file(prompts[1], rows, tmp_path / "out.xlsx")

    def test_a_column_that_is_not_there(self, prompts, rows, tmp_path):
        with pytest.raises(BadInput, match=r"rows.jsonl:1: no column 'key'; leave `id_column` out"):
            predict_file(prompts[1], rows, tmp_path / "out.jsonl", id_column="key")
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]

    @pytest.mark.parametrize("kept", ['"r\\ud800"', '["r\\udfff"]'])
    def test_a_kept_column_that_holds_half_a_character_is_named_before_its_rows_are_answered(
        self, prompts, tmp_path, kept, passes
    ):
        path = tmp_path / "rows.jsonl"
        path.write_text('{"id": "r\\ud83d\\ude00", "text": "good"}\n{"id": ' + kept + ', "text": "bad"}\n')
        with pytest.raises(BadInput, match=r"^\S*rows\.jsonl:2: column 'id' holds .*surrogate.*leave `id_column` out$"):
            predict_file(prompts[1], path, tmp_path / "out.csv", id_column="id", model=prompts[2])
        assert passes == []
        assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]

    @pytest.mark.parametrize(
        ("row", "message"), [('{"txt": "film"}', "unknown column 'text'"), ('{"text": [1]}', "holds")]
    )
    def test_a_row_that_cannot_be_read_is_named_by_its_line_and_leaves_nothing(self, row, message, prompts, tmp_path):
        path = tmp_path / "rows.jsonl"
        path.write_text('{"text": "good"}\n\n' + row + "\n")
        with pytest.raises(BadInput, match=f"rows.jsonl:3: .*{message}"):
            predict_file(prompts[1], path, tmp_path / "out.jsonl", model=prompts[2])
        assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]

    def test_a_prompt_whose_column_would_replace_another(self, prompts, rows, tmp_path):
        with pytest.raises(BadInput, match="two columns of the output would be called 'id'"):
            predict_file({"id": prompts[1]["mood"]}, rows, tmp_path / "out.jsonl", id_column="id", model=prompts[2])
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]

    def test_no_prompt_an_empty_pass_and_a_text_that_is_no_utf8(self, prompts, rows, tmp_path):
        (tmp_path / "rows.txt").write_bytes(b"good\n\xff\n")
        for given, source, options, message in [
            ({}, rows, {}, "no prompt to answer with"),
            (prompts[1], rows, {"batch_size": 0}, "batch_size"),
            (prompts[1], tmp_path / "rows.txt", {"model": prompts[2]}, "rows.txt:2: not UTF-8"),
        ]:
            with pytest.raises(BadInput, match=message):
                predict_file(given, source, tmp_path / "out.jsonl", **options)
            assert not (tmp_path / "out.jsonl").exists()

    def test_a_full_disk_is_one_line_and_the_command_goes_on_later(self, prompts, rows, tmp_path, monkeypatch):
        def full(self):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("softprompt.inference._journal.Journal.end_chunk", full)
            with pytest.raises(StorageFailure, match="No space left on device; free some space"):
                predict_file(prompts[1], rows, tmp_path / "out.jsonl", model=prompts[2])
        assert predict_file(prompts[1], rows, tmp_path / "out.jsonl", model=prompts[2]) == 38

    def test_an_empty_file(self, prompts, tmp_path):
        (tmp_path / "e.jsonl").touch()
        with pytest.raises(BadInput, match="is empty"):
            predict_file(prompts[1], tmp_path / "e.jsonl", tmp_path / "out.jsonl")


class TestCommand:
    def test_writes_a_column_for_each_prompt(self, prompts, rows, tmp_path, capsys):
        root, _, _ = prompts
        arguments = ["predict", str(root / "mood"), "--file", str(rows), "--output", str(tmp_path / "o.csv"),
                     "--prompts", f"other={root / 'truth'}", "--id-column", "id"]  # fmt: skip
        assert main(arguments) == 0
        printed = capsys.readouterr()
        assert printed.out.strip() == str(tmp_path / "o.csv")
        assert "38 rows, " in printed.err
        assert (tmp_path / "o.csv").read_text().startswith("id,mood,mood.bad,mood.good,other,other.yes,")

    def test_takes_prompts_whose_paths_hold_an_equals_sign(self, prompts, rows, tmp_path):
        root, made, _ = prompts
        for name in ("lr=0.3", "lr=1"):
            save_prompt(made["mood"], tmp_path / "runs=2" / name / "prompt")
        places = [str(tmp_path / "runs=2" / name) for name in ("lr=0.3", "lr=1")]
        arguments = ["predict", places[0], "--file", str(rows), "--output", str(tmp_path / "o.csv")]
        assert main([*arguments, "--prompts", places[1], "--prompts", f"other={root / 'truth'}"]) == 0
        columns = (tmp_path / "o.csv").read_text().partition("\n")[0].split(",")
        assert [name for name in columns if not name.endswith(("bad", "good", "yes", "no", ".0"))] == [
            "row", "lr=0.3", "lr=1", "other"
        ]  # fmt: skip

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
