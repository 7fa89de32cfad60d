"""Answers to new inputs: in order and at once, and what is said of texts that are not read or say nothing."""

import io
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from softprompt import cli
from softprompt.backbones import AbstractBackbone, from_model
from softprompt.backbones import decoder as decoder_file
from softprompt.errors import BadInput
from softprompt.inference.asked import task_of
from softprompt.inference.bulk import predict_file
from softprompt.inference.evaluate import evaluate
from softprompt.inference.predict import _parts, predict
from softprompt.inference.scoring import scoring_of
from softprompt.inference.together import Group, Responder
from softprompt.interop.recipes import readme
from softprompt.interop.stored import load
from softprompt.prompts.prompt import LinearHead, Provenance, SoftPrompt
from softprompt.tasks import Wording, custom_task, in_lines
from softprompt.training import train

from kit import review_task

TEXTS = ["good", "a bad film", "the movie was great", "not it", "terrible", "good and bad", "it is great"]


@pytest.fixture(scope="module")
def backbone(tiny_t5):
    return from_model(*tiny_t5("t5"), name="tiny")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{'good ' * 90 if n == 3 else 'bad'},{n % 2}\n" for n in range(40)))
    return custom_task(str(path), text_columns=["text"], label_column="label", max_length=64)


@pytest.fixture(scope="module")
def prompt(backbone, task):
    vectors = torch.ones(2, backbone.embedding_size)
    return SoftPrompt(vectors, Provenance("prompt-tuning", backbone.identity(), task=task.to_json()))


def test_answers_come_in_order_a_batch_at_first_and_more_later(prompt, backbone):
    seen: list[list[dict[str, Any]]] = []
    answers = predict(prompt, TEXTS, model=backbone, batch_size=2, tell=seen.append)
    assert [len(part) for part in seen] == [2, 4, 1]
    assert [answer for part in seen for answer in part] == answers
    assert [answer["text"] for answer in answers] == TEXTS
    whole = predict(prompt, TEXTS, model=backbone)
    for answer, other in zip(answers, whole, strict=True):
        assert answer["label"] == other["label"]
        assert answer["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_a_model_in_training_mode_answers_as_in_evaluation_mode_and_stays_in_it(prompt, backbone):
    backbone.model.train()
    backbone.model.encoder.block[0].eval()
    modes = [module.training for module in backbone.model.modules()]
    seen = [predict(prompt, TEXTS, model=backbone) for _ in range(2)]
    (group,) = Group.all_of([Responder.of("answer", prompt, backbone, "auto", calibrate=True)])
    with group.ready() as prompt_batch:
        (together,) = (row.answers(prompt_batch) for row in group.passes(TEXTS, 32))
    assert [module.training for module in backbone.model.modules()] == modes
    backbone.model.eval()
    expected = predict(prompt, TEXTS, model=backbone)
    assert seen == [expected, expected]
    scores = sorted(score for answer in expected for score in answer["scores"].values())
    assert sorted(score for _, *of_cell in together for score in of_cell) == pytest.approx(scores, abs=1e-5)


def test_words_of_the_user_take_the_place_of_the_tasks(prompt, backbone):
    words: Any = {"instruction": "Judge.", "template": "Is {text} good?", "label_words": ("bad", "good")}
    chosen = task_of(prompt, wording=Wording(**words))
    answers = predict(prompt, TEXTS, model=backbone, **words)
    assert answers == predict(prompt, TEXTS, model=backbone, task=chosen) != predict(prompt, TEXTS, model=backbone)
    assert list(answers[0]["scores"]) == ["bad", "good"]
    report, expected = evaluate(prompt, model=backbone, **words), evaluate(prompt, model=backbone, task=chosen)
    assert (report.rows, report.metrics) == (expected.rows, expected.metrics)


def test_evaluate_reads_a_file_of_other_fields(prompt, backbone, tmp_path):
    for name, sign in (("rows.csv", ","), ("others.csv", ";")):
        (tmp_path / name).write_text(f"text{sign}label\ngood{sign}1\nbad{sign}0\n")
    report = evaluate(prompt, str(tmp_path / "others.csv"), delimiter=";", model=backbone)
    assert report.rows == evaluate(prompt, str(tmp_path / "rows.csv"), model=backbone).rows


def test_parts_double_up_to_eight_batches():
    assert [len(part) for part in _parts(1000, 16)] == [16, 32, 64, 128, 128, 128, 128, 128, 128, 120]
    assert [row for part in _parts(1000, 16) for row in part] == list(range(1000))
    assert list(_parts(0, 16)) == []


def test_a_run_that_is_killed_has_printed_what_it_answered(prompt, backbone, tmp_path, monkeypatch, capsys):
    answer, calls = backbone.label_scores, []

    def dying(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return answer(*given, **named)

    monkeypatch.setattr(type(backbone), "label_scores", lambda self, *given, **named: dying(*given, **named))
    monkeypatch.setattr("softprompt.inference.predict.kept_model", lambda name, **options: backbone)
    prompt.save(tmp_path / "prompt")
    assert cli.main(["predict", str(tmp_path / "prompt"), *TEXTS, "--batch-size", "3"]) == 130
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == TEXTS[:3]


def test_a_text_that_is_cut_is_told_of_by_predict_and_by_evaluate(prompt, backbone, task, caplog):
    with caplog.at_level(logging.WARNING, "softprompt"):
        predict(prompt, ["good"], model=backbone)
        assert caplog.messages == []
        predict(prompt, ["good " * 3000, "bad"], model=backbone)
        evaluate(prompt, model=backbone, split="train")
    told = [line.partition(" are longer than the ") for line in caplog.messages]
    assert [line[0] for line in told] == ["1 of 2 inputs (50 %)", "1 of 32 train rows (3 %)"]
    assert all(line[2].startswith("64 tokens that are read, and are cut") for line in told)
    assert all("or train with a longer --max-length where" in line[2] for line in told)


def test_blank_inputs_are_told_of_and_nothing_else_is_refused(prompt, backbone, caplog):
    with caplog.at_level(logging.WARNING, "softprompt"):
        assert len(predict(prompt, ["good", "", " "], model=backbone)) == 3
    assert caplog.messages == ["2 of 3 inputs are blank, the first is input 2: an answer to one says nothing"]
    with pytest.raises(BadInput, match="every input is blank; give words to answer"):
        predict(prompt, [""], model=backbone)
    assert predict(prompt, [], model=backbone) == []


def test_a_prompt_writes_answers_as_long_as_it_was_trained_to(backbone, tmp_path, caplog):
    rows = [{"text": text, "answer": "good " * (1 + number % 2)} for number, text in enumerate(TEXTS)]
    files = {"train": rows, "validation": rows, "test": rows}
    named = {"text_column": "text", "target_column": "answer", "steps": 1, "prompt_length": 2, "with_frozen": False}
    with caplog.at_level(logging.WARNING, "softprompt"):
        run = train(files, backbone, max_new_tokens=1, output=tmp_path / "run", **named)
    told = (
        "14 of 14 validation and test rows have answers of more than 1 tokens, the longest 3; a prompt writes no longer"
    )
    assert any(line.startswith(told) for line in caplog.messages)
    short = load(run.folder / run.results[0].prompt / "prompt")
    assert isinstance(short, SoftPrompt)
    written = [answer["output"] for answer in predict(short, TEXTS, model=backbone)]
    assert written == [answer["output"] for answer in predict(short, TEXTS, model=backbone, max_new_tokens=1)]
    assert written != [answer["output"] for answer in predict(short, TEXTS, model=backbone, max_new_tokens=20)]
    assert evaluate(short, rows, model=backbone).rows[0]["prediction"] == written[0]
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    predict_file({"short": short}, tmp_path / "texts.txt", tmp_path / "out.jsonl", model=backbone)
    assert [json.loads(line)["short"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == written
    assert "max_new_tokens=1," in readme(short)


@pytest.mark.parametrize(
    ("family", "decode"), [("gpt2", "scores"), ("gpt2", "generate"), ("gpt2", "token by token"), ("t5", "generate")]
)
def test_nan_is_no_answer(family, decode, tiny_model, task, tmp_path, monkeypatch):
    backbone = from_model(*tiny_model(family), name="tiny")
    if decode == "token by token":
        decode, _ = "generate", monkeypatch.setattr(decoder_file, "generates_from_vectors", lambda model: False)
    if family == "t5":
        # Its norms keep a large prompt finite.
        backbone.model.decoder.final_layer_norm.weight.data.fill_(torch.nan)
    vectors = torch.full((2, backbone.embedding_size), 3e38)
    prompt = SoftPrompt(vectors, Provenance("prompt-tuning", backbone.identity(), task=task.to_json()))
    nothing_is_answered(prompt, backbone, tmp_path, decode=decode)


@pytest.mark.parametrize("column", ["label_column", "number_column"])
def test_nan_of_a_head_is_no_answer(column, tiny_bert, tmp_path):
    backbone = from_model(*tiny_bert(), name="tiny", answers="linear-head")
    backbone.model.base_model.encoder.layer[-1].output.LayerNorm.weight.data.fill_(torch.nan)
    (tmp_path / "rows.csv").write_text("text,out\n" + "".join(f"good {n},{n % 2}\n" for n in range(40)))
    task = custom_task(str(tmp_path / "rows.csv"), text_columns=["text"], **{column: "out"}, max_length=32)
    classes = len(task.labels) or 1
    provenance = Provenance("prompt-tuning", backbone.identity(), "linear-head", task=task.to_json())
    head = LinearHead(torch.ones(classes, backbone.hidden_size), torch.ones(classes))
    prompt = SoftPrompt(torch.ones(2, backbone.embedding_size), provenance, head=head)
    nothing_is_answered(prompt, backbone, tmp_path)


def nothing_is_answered(prompt: SoftPrompt, backbone: AbstractBackbone, folder: Path, **options: Any) -> None:
    """Assert that no command answers with a prompt with which the model computes NaN."""
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    for answered in (
        lambda: predict(prompt, TEXTS, model=backbone, **options),
        lambda: evaluate(prompt, model=backbone, **options),
        lambda: predict_file({"huge": prompt}, folder / "texts.txt", folder / "out.jsonl", model=backbone, **options),
    ):
        with pytest.raises(BadInput, match=r"computes NaN with (this prompt|prompt 'huge'), from which no answer"):
            answered()
    assert not (folder / "out.jsonl").exists()


def test_a_prompt_that_was_trained_to_write_its_label_writes_it(backbone, tmp_path):
    run = train(
        review_task(tmp_path / "rows"), backbone, steps=1, decode="generate", with_frozen=False, output=tmp_path / "run"
    )
    prompt, result = load(run.folder / run.results[0].prompt / "prompt"), run.results[0]
    found = evaluate(prompt, model=backbone)
    assert {**found.metrics, "invalid": found.invalid} == result.metrics["test"]
    assert found.invalid > 0
    assert evaluate(prompt, model=backbone, decode="scores").invalid == 0
    assert set(predict(prompt, ["good"], model=backbone)[0]) == {"text", "output"}


def test_a_stored_prompt_cannot_ask_for_answers_without_end(prompt):
    asked = replace(prompt.provenance, scoring={"version": 1, "max_new_tokens": 10**9})
    with pytest.raises(BadInput, match="writes answers of 1000000000 tokens, the limit is 4096; if that is meant"):
        scoring_of(replace(prompt, provenance=asked))


def test_test_rows_are_not_drawn_again_from_a_file_that_changed(backbone, tmp_path):
    path = tmp_path / "rows.csv"
    lines = [f"{TEXTS[number % 7]},{'yes' if number % 3 else 'no'}" for number in range(40)]

    def holds(*rows: str) -> None:
        path.write_text("\n".join(["text,answer", *rows]) + "\n")

    holds(*lines)
    named = {"text_column": "text", "label_column": "answer", "steps": 1, "prompt_length": 2, "with_frozen": False}
    run = train(str(path), backbone, output=tmp_path / "run", **named)
    prompt, score = run.prompt(0), run.results[0].metrics["test"]["accuracy"]
    assert evaluate(prompt, model=backbone).metrics["accuracy"] == score
    for changed in ([*lines, lines[0]], lines[::-1]):
        holds(*changed)
        with pytest.raises(
            BadInput, match=r"rows.csv holds other rows than when this prompt was trained, so test rows"
        ):
            evaluate(prompt, model=backbone)
        assert evaluate(prompt, str(path), model=backbone).n == len(changed)
    given = {"train": str(path), "test": str(path)}
    run = train(given, backbone, output=tmp_path / "apart", **named)
    holds(*lines)
    assert evaluate(run.prompt(0), model=backbone).n == len(lines)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.csv", "text\nfine\n\ncafé\n".encode("latin-1"), ":4: column 'text' holds bytes that are not UTF-8"),
        ("rows.jsonl", b'{"text": "a"}\n\n{"text": null}\n', ":3: column 'text' is empty; fill it or drop the row"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": NaN}\n', ":2: column 'text' is empty"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": [1]}\n', ":2: column 'text' holds a list, text is needed"),
        ("rows.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', ":2: unknown column 'text'. Did you mean 'txt'?"),
        ("rows.txt", b"fine\n\na \0 b\n", ":3: column 'text' holds a NUL character"),
    ],
)
def test_a_row_without_a_text_is_named_with_its_place(
    prompt, backbone, tmp_path: Path, monkeypatch, capsys, name: str, content: bytes, reason: str
):
    monkeypatch.setattr("softprompt.inference.predict.kept_model", lambda name, **options: backbone)
    prompt.save(tmp_path / "prompt")
    file = tmp_path / name
    file.write_bytes(content)
    assert cli.main(["predict", str(tmp_path / "prompt"), "--file", str(file)]) == 2
    assert f"softprompt: {file}{reason}" in capsys.readouterr().err
    if name == "rows.txt":
        monkeypatch.setattr("sys.stdin", io.StringIO(content.decode()))
        assert cli.main(["predict", str(tmp_path / "prompt")]) == 2
        assert f"softprompt: standard input{reason}" in capsys.readouterr().err
        return
    with pytest.raises(BadInput, match=r"^input 2: column 'text' is empty"):
        predict(prompt, [{"text": "a"}, {"text": None}], model=backbone)


def test_the_text_of_an_answer_is_the_one_that_was_given_unless_it_is_made_of_several(tiny_gpt, tmp_path: Path):
    backbone = from_model(*tiny_gpt("llama"), name="tiny")
    rows = [{"text": f"film {n}", "by": "mary", "label": "ab"[n % 2]} for n in range(9)]
    vectors, texts = torch.ones(2, backbone.embedding_size), []
    for columns in (["text"], ["text", "by"]):
        task = in_lines(custom_task(rows, text_columns=columns, label_column="label"))
        prompt = SoftPrompt(vectors, Provenance("prompt-tuning", backbone.identity(), task=task.to_json()))
        texts.append(predict(prompt, rows[0], model=backbone)[0]["text"])
    assert texts == ["film 0", "text: film 0\nby: mary\nlabel:"]
