"""The commands on stored prompts: evaluate, predict, show and import."""

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from softprompt.cli import main
from softprompt.cli.printing import cell
from softprompt.documents import sha256_of
from softprompt.tasks import TASKS

from cli_kit import refusal
from kit import review_task, rewrite
from report_kit import drop, made_run


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A prompt that every path leads to."""
    import torch
    from softprompt.prompts.prompt import BackboneIdentity, Provenance, SoftPrompt

    task = TASKS["glue/sst2"].to_json()
    identity = BackboneIdentity("some/model", "encoder", 2)
    metrics = {"test": {"accuracy": 0.5, "score": 0.5}}
    prompt = SoftPrompt(
        torch.tensor([[3.0, 4.0]]), Provenance("ept-star", identity, task=task, metrics=metrics), repeats=10
    )
    monkeypatch.setattr(SoftPrompt, "load", classmethod(lambda cls, source: prompt))
    return prompt


@pytest.fixture
def answered(stored: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The inputs that `predict` was given."""
    seen: list[Any] = []

    def predict(prompt: Any, inputs: Any, **options: Any) -> list[dict[str, Any]]:
        seen.extend(inputs)
        answers = [{"text": str(given), "label": "é", "scores": {"é": 1.0}} for given in inputs]
        options["tell"](answers)
        return answers

    monkeypatch.setattr("softprompt.inference.predict.predict", predict)
    return seen


def test_evaluate_looks_at_its_place_before_it_scores(stored, tmp_path, monkeypatch, capsys):
    def evaluated(*arguments: Any, **options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("softprompt.inference.evaluate.evaluate", evaluated)
    (tmp_path / "file").touch()
    assert main(["evaluate", "p", "--output", str(tmp_path / "file" / "scores")]) == 2
    assert "the evaluation cannot be stored in" in capsys.readouterr().err


def test_predict_prints_one_json_line_a_text(answered: list[Any], capsys: pytest.CaptureFixture[str]):
    assert main(["predict", "prompt", "one", "two"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == '{"text": "one", "label": "é", "scores": {"é": 1.0}}'
    assert second == '{"text": "two", "label": "é", "scores": {"é": 1.0}}'


def test_a_pipe_in_another_encoding_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    piped = io.TextIOWrapper(io.BytesIO("café".encode("latin-1")), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", piped)
    assert main(["predict", "prompt"]) == 2
    assert capsys.readouterr().err == "softprompt: standard input is not UTF-8 (byte 3); convert it first\n"


def test_a_prompt_of_peft_names_its_model_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import torch
    from softprompt.interop.peft import export_peft
    from softprompt.prompts.prompt import BackboneIdentity, Provenance, SoftPrompt

    folder = tmp_path / "adapter"
    export_peft(SoftPrompt(torch.ones(2, 4), Provenance("imported", BackboneIdentity("m", "decoder", 4))), folder)
    for number, words in enumerate((["--model", "m"], ["--kind", "decoder"], [])):
        assert main(["import", str(folder), *words, "--output", str(tmp_path / str(number))]) == 0
    for words in (["--model", "other"], ["--kind", "encoder"]):
        assert main(["import", str(folder), *words, "--output", str(tmp_path / "x")]) == 2
        assert "as it says itself; leave --model and --kind out" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["-"]], ids=["nothing", "dash"])
def test_predict_reads_lines_from_a_pipe_and_keeps_blank_ones(
    words: list[str], answered: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\r\n\ntwo\u2028still two\n"))
    assert main(["predict", "prompt", *words]) == 0
    assert answered == ["one", "", "two\u2028still two"]


def test_the_mark_of_utf_8_is_no_part_of_a_piped_text(answered: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffred dog\n\ufeffkept\n"))
    assert main(["predict", "prompt"]) == 0
    assert answered == ["red dog", "\ufeffkept"]


@pytest.mark.parametrize(
    ("name", "text", "inputs"),
    [
        ("rows.txt", "\ufeffone\ntwo", ["one", "two"]),
        ("rows.csv", 'sentence,label\n"a, b",1\n', [{"sentence": "a, b", "label": "1"}]),
        ("rows.jsonl", '{"sentence": "a"}\n\n{"sentence": "b"}\n', [{"sentence": "a"}, {"sentence": "b"}]),
    ],
)
def test_predict_reads_files_by_their_ending(
    name: str, text: str, inputs: list[Any], answered: list[Any], tmp_path: Path
):
    (tmp_path / name).write_text(text)
    assert main(["predict", "prompt", "--file", str(tmp_path / name)]) == 0
    assert answered == inputs


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.csv", b"sentence\na\nb,c\n", ":3: 2 fields, the header has 1"),
        ("rows.jsonl", b'{"sentence": "a"}\nb\n', ":2: not JSON"),
        ("rows.txt", b"fine\n\xff\n", "is not UTF-8 (byte 5); convert it first"),
        ("rows.txt", b"", " is empty; at least one text is needed"),
    ],
)
def test_predict_names_the_place_of_a_malformed_row(
    name: str, content: bytes, reason: str, answered: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / name).write_bytes(content)
    assert reason in refusal(capsys, "predict", "prompt", "--file", str(tmp_path / name))
    assert answered == []


def test_evaluate_json_is_one_line_of_metrics_rows_and_invalid_answers(
    stored: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from softprompt.inference.report import Report

    seen: dict[str, Any] = {}

    def evaluate(prompt: Any, **named: Any) -> Report:
        seen.update(named, prompt=prompt)
        return Report({"accuracy": 0.5, "score": 0.5}, 8, 1, [])

    monkeypatch.setattr("softprompt.inference.evaluate.evaluate", evaluate)
    assert main(["evaluate", "prompt", "--split", "validation", "--data-root", "rows", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"metrics": {"accuracy": 0.5, "score": 0.5}, "n": 8, "invalid": 1}
    expected = {"prompt": stored, "split": "validation", "data_root": Path("rows"), "task": None, "rows": None}
    assert {name: seen[name] for name in expected} == expected
    assert main(["evaluate", "prompt", "--data", "mine.csv", "--template", "{sentence}", "--delimiter", ";"]) == 0
    assert (seen["rows"], seen["template"], seen["delimiter"]) == (["mine.csv"], "{sentence}", ";")
    capsys.readouterr()
    whole = refusal(capsys, "evaluate", "prompt", "--data", "mine.csv", "--split", "train")
    assert "the rows of --data are scored whole, there is no 'train' of them; leave --split out" in whole


def test_show_tells_everything_of_a_prompt_but_its_numbers(
    stored: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["show", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["method"], shown["task"], shown["labels"]) == ("ept-star", "glue/sst2", ["negative", "positive"])
    assert (shown["prompt_length"], shown["repeats"], shown["stored"], shown["norm"]) == (10, 10, 2, 5.0)
    assert (shown["backbone"]["name"], shown["metrics"]["test"]["accuracy"]) == ("some/model", 0.5)
    assert (shown["token_norms"], shown["warnings"]) == (None, [])
    assert main(["show", str(tmp_path)]) == 0
    assert re.search(r"\nnorm +5\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("token_norm", "told", "warning"),
    [
        (2.5, "5 = 2 token norms (band 1-10)", None),
        (0.1, "5 = 50 token norms (above the band 1-10)", "over-exploded: its norm is 50 token norms"),
        (25.0, "5 = 0.2 token norms (below the band 1-10)", "or a higher learning rate (now 0.3)"),
        ("5", "5", None),
    ],
)
def test_show_tells_the_norm_in_token_norms_where_they_are_known(
    token_norm: Any, told: str, warning: str | None, stored: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stored.provenance.training.update(token_norm=token_norm, lr=0.3, units="raw")
    assert main(["show", str(tmp_path), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert len(warnings) == (warning is not None)
    assert all(warning in line for line in warnings)
    assert main(["show", str(tmp_path)]) == 0
    assert f"  {told}\n" in capsys.readouterr().out


def test_show_takes_from_the_result_of_a_prompt_how_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path / "run", methods=("ept-star",), seeds=4)
    why = drop(run / "ept-star-seed1")
    (run / "ept-star-seed2" / "prompt").rename(tmp_path / "away")
    (run / "ept-star-seed3" / "result.json").unlink()
    assert main(["show", str(run), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["prompts"]
    assert [(prompt["status"], prompt["metrics"].get("test", {}).get("score")) for prompt in shown] == [
        ("finished", 0.7), (why, None), ("finished, its prompt is missing", 0.72), ("not finished", None),
    ]  # fmt: skip
    assert [("norm" in prompt) for prompt in shown] == [True, False, False, True]
    assert main(["show", str(run)]) == 0
    assert why in capsys.readouterr().out


def test_commands_that_answer_rows_again_tell_of_a_file_that_changed_since_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    task = review_task(tmp_path / "rows")
    # Without the model each of them ends before the first answer.
    run = made_run(tmp_path / "run", task=task, model="no/such-model", methods=("ept-star",), seeds=1)
    files = {path: sha256_of(Path(path)) for path in task.source.every_path}
    rewrite(run / "run.json", lambda values: values.update(files=files))
    prompt = str(run / "ept-star-seed0")
    again = (["evaluate", prompt], ["analyze", "groups", prompt], ["landscape", str(run)])
    for split in ("train", "test"):
        (path,) = task.source.paths(split)
        Path(path).write_text(Path(path).read_text() + "a good film,bad\n")
        warning = f"{path} had other contents when {run} was trained, so its scores are of other rows"
        for words in (*again, ["analyze", "norm", str(run)], ["evaluate", prompt, "--data", path]):
            main(words)
            assert (warning in capsys.readouterr().err) == (split == "test" and words in again)


def test_a_numpy_prompt_needs_the_name_of_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "prompt.npy").write_bytes(b"")
    line = refusal(capsys, "import", str(tmp_path / "prompt.npy"), "--output", str(tmp_path / "new"))
    assert line.endswith("does not say which model it belongs to; name it with --model")
    assert not (tmp_path / "new").exists()


def test_a_numpy_prompt_is_of_the_kind_that_its_model_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import numpy as np
    from softprompt.backbones import load_backbone
    from softprompt.errors import ModelMismatch
    from softprompt.prompts.prompt import SoftPrompt

    gpt = load_backbone("lab-gpt")
    np.save(tmp_path / "p.npy", np.ones((2, gpt.embedding_size), np.float32))
    of_gpt = ["import", str(tmp_path / "p.npy"), "--model", "lab-gpt", "--output"]
    assert main([*of_gpt, str(tmp_path / "new")]) == 0
    stored = SoftPrompt.load(capsys.readouterr().out.strip())
    assert stored.provenance.backbone.kind == "decoder"
    gpt.check(stored)
    line = refusal(capsys, *of_gpt, str(tmp_path / "x"), "--kind", "encoder-decoder")
    assert line.endswith("the model 'lab-gpt' is of kind decoder, not encoder-decoder; leave --kind out")
    # As a version before stored it.
    wrong = dataclasses.replace(stored.provenance.backbone, kind="encoder-decoder")
    other = dataclasses.replace(stored, provenance=dataclasses.replace(stored.provenance, backbone=wrong))
    with pytest.raises(
        ModelMismatch, match="of kind encoder-decoder, 'lab-gpt' is of kind decoder; give its own model"
    ):
        gpt.check(other)
    # Of a model that is not here nothing is known.
    assert main([*of_gpt[:3], "a/b", "--output", str(tmp_path / "far")]) == 0
    assert SoftPrompt.load(tmp_path / "far").provenance.backbone.kind == "encoder-decoder"


def test_a_value_with_parts_is_shown_part_by_part():
    assert cell([{"regularizer": "rn-emb", "sigma": 0.3, "ramp": None}, {"alpha": 1}]) == (
        "regularizer=rn-emb sigma=0.3, alpha=1"
    )
