"""Answers to new inputs: in order and at once, and what is said of texts that are not read or say nothing."""

import json
import logging
from typing import Any

import pytest
import torch
from softprompt import cli
from softprompt.backbones import from_model
from softprompt.errors import BadInput
from softprompt.inference.evaluate import evaluate
from softprompt.inference.predict import _parts, predict
from softprompt.inference.together import Group, Responder
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.tasks import custom_task

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


def test_blank_inputs_are_told_of_and_nothing_else_is_refused(prompt, backbone, caplog):
    with caplog.at_level(logging.WARNING, "softprompt"):
        assert len(predict(prompt, ["good", "", " "], model=backbone)) == 3
    assert caplog.messages == ["2 of 3 inputs are blank, the first is number 2: an answer to one says nothing"]
    with pytest.raises(BadInput, match="every input is blank; give words to answer"):
        predict(prompt, [""], model=backbone)
    assert predict(prompt, [], model=backbone) == []
