"""Calibration of label scores: the fit, where it is stored, and every place that answers by it."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from softprompt import SoftPrompt, evaluate, predict, resume, train
from softprompt.errors import BadInput, DamagedFile
from softprompt.inference import calibration as calibration_file
from softprompt.inference.answers import Answers
from softprompt.inference.calibration import LOWEST, Calibration, quality
from softprompt.inference.scoring import Scoring, scoring_of
from softprompt.interop.recipes import readme
from softprompt.training import Interrupted, read_plan
from torch.nn import functional

from kit import review_task, rewrite, same_files

LABELS = ("bad", "good", "mixed")


def scores_of(n=400, temperature=3.0, bias=(0.7, -0.5, -0.2), seed=0):
    """Scores that are `temperature` times too sure and lean towards some classes, and classes drawn by the truth."""
    draw = torch.Generator().manual_seed(seed)
    honest = 1.5 * torch.randn(n, 3, generator=draw, dtype=torch.float64)
    gold = torch.multinomial(honest.softmax(-1), 1, generator=draw)[:, 0].tolist()
    return (honest - torch.tensor(bias, dtype=torch.float64)) * temperature, gold


class TestFit:
    def test_it_finds_the_temperature_and_biases_that_spoiled_honest_scores(self):
        scores, gold = scores_of(n=20000)
        found = Calibration.fit(scores, gold, LABELS)
        assert found.temperature == pytest.approx(3.0, rel=0.05)
        assert found.bias == pytest.approx((0.7, -0.5, -0.2), abs=0.06)

    def test_it_is_the_minimum_of_the_likelihood(self):
        """Against torch's own cross entropy: no small step in any direction is better."""
        scores, gold = scores_of()
        found = Calibration.fit(scores, gold, LABELS)

        def loss(temperature, bias):
            return functional.cross_entropy(scores / temperature + torch.tensor(bias), torch.tensor(gold)).item()

        least = loss(found.temperature, found.bias)
        assert functional.nll_loss(found.apply(scores), torch.tensor(gold)).item() == pytest.approx(least)
        for step in np.eye(4) * 0.02:
            for sign in (1, -1):
                other = found.temperature * (1 + sign * step[0]), tuple(np.add(found.bias, sign * step[1:]))
                assert loss(*other) > least

    def test_honest_scores_stay_nearly_as_they_are(self):
        scores, gold = scores_of(n=20000, temperature=1.0, bias=(0.0, 0.0, 0.0))
        found = Calibration.fit(scores, gold, LABELS)
        assert found.temperature == pytest.approx(1.0, rel=0.05)
        assert found.bias == pytest.approx((0, 0, 0), abs=0.06)

    def test_a_constant_of_a_row_changes_nothing(self):
        scores, gold = scores_of()
        shifted = scores + torch.randn(len(scores), 1, dtype=torch.float64) * 30
        a, b = (Calibration.fit(x, gold, LABELS) for x in (scores, shifted))
        assert a.temperature == pytest.approx(b.temperature, rel=1e-3)
        torch.testing.assert_close(a.apply(scores), b.apply(shifted), rtol=1e-3, atol=1e-3)

    def test_a_class_that_no_row_has_is_as_likely_as_its_scores_say(self):
        scores, gold = scores_of(bias=(0.0, 0.0, 0.0))
        two = [row for row, right in enumerate(gold) if right < 2]
        scores, gold = scores[two], [gold[row] for row in two]
        found = Calibration.fit(scores, gold, LABELS)
        assert found.bias[2] == 0
        assert sum(found.bias) == pytest.approx(0)
        # As if there were the two classes alone.
        assert found.temperature == pytest.approx(Calibration.fit(scores[:, :2], gold, LABELS[:2]).temperature)
        clear = torch.tensor([[-4.0, -4.0, -0.05]])
        assert found.apply(found.temperature * clear).exp()[0, 2] > 0.9

    def test_rows_of_one_class_say_nothing(self):
        scores, _ = scores_of(n=10)
        found = Calibration.fit(scores, [1] * 10, LABELS)
        assert (found.temperature, found.bias) == (pytest.approx(1.0), (0.0, 0.0, 0.0))

    def test_rows_that_are_all_right_and_classes_without_rows_stay_bounded(self):
        scores = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]] * 4)
        found = Calibration.fit(scores, [0, 1] * 4, LABELS)
        assert found.temperature >= LOWEST
        assert all(abs(bias) <= 20 for bias in found.bias)
        assert torch.isfinite(found.apply(scores)).all()

    @pytest.mark.parametrize(
        ("temperature", "bias"),
        [(0.0, (0.0, 0.0, 0.0)), (math.nan, (0.0, 0.0, 0.0)), (1.0, (0.0, math.inf, 0.0)), (1.0, (0.0, 0.0))],
    )
    def test_numbers_that_would_answer_nonsense_are_refused(self, temperature, bias):
        with pytest.raises(ValueError, match="a calibration"):
            Calibration(temperature, bias, LABELS)


class TestScoring:
    def prompt(self, stored, scoring):
        provenance = dataclasses.replace(stored.provenance, scoring=scoring)
        return dataclasses.replace(stored, provenance=provenance)

    def test_a_prompt_without_a_record_is_scored_as_before(self, calibrated):
        _, prompt = calibrated
        assert Scoring.of(self.prompt(prompt, {})) == Scoring(end=True, normalize="sum", calibration=None)

    def test_a_later_version_and_damage_are_told(self, calibrated):
        _, prompt = calibrated
        with pytest.raises(BadInput, match="upgrade it"):
            Scoring.of(self.prompt(prompt, {"version": 2}))
        with pytest.raises(DamagedFile, match="does not say how it answers"):
            Scoring.of(self.prompt(prompt, {"version": 1, "calibration": {"temperature": 0, "bias": [], "labels": []}}))

    @pytest.mark.parametrize(
        "record",
        [
            {"normalize": "zzz"}, {"end": "no"}, {"end": 0}, {"decode": "x"}, {"max_new_tokens": "5"},
            {"max_new_tokens": True}, {"max_new_tokens": 0}, {"other": 1}, {"calibration": 3},
            {"calibration": {"temperature": True, "bias": [0.0], "labels": ["a"]}},
            {"calibration": {"temperature": 1.0, "bias": "00", "labels": ["a", "b"]}},
            {"calibration": {"temperature": 1.0, "bias": [0.0, 0.0], "labels": "ab"}},
            {"calibration": {"temperature": 1.0, "bias": [0.0]}},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_record_of_other_kinds_is_refused_and_not_converted(self, record, calibrated):
        with pytest.raises(DamagedFile, match="does not say how it answers"):
            Scoring.of(self.prompt(calibrated[1], {"version": 1, **record}))

    def test_another_normalization_leaves_the_calibration_out(self, calibrated):
        _, prompt = calibrated
        assert scoring_of(prompt).calibration is not None
        assert scoring_of(prompt, "mean") == dataclasses.replace(scoring_of(prompt), normalize="mean", calibration=None)
        assert scoring_of(prompt, calibrate=False).calibration is None

    @pytest.mark.parametrize("words", [{"template": "So: {text}"}, {"instruction": "Is it good?"}])
    def test_other_words_leave_the_calibration_out_with_a_warning(self, words, calibrated, caplog):
        _, prompt = calibrated
        plain = prompt.predict(["a good film"], calibrate=False, **words)
        assert prompt.predict(["a good film"], **words) == plain
        assert evaluate(prompt, **words).metrics == evaluate(prompt, calibrate=False, **words).metrics
        assert caplog.text.count("calibration stored with this prompt is left out") == 2
        caplog.clear()
        assert prompt.predict(["a good film"]) != prompt.predict(["a good film"], calibrate=False)
        evaluate(prompt, task=prompt.provenance.task["name"])
        assert "calibration stored" not in caplog.text

    def test_other_labels_are_not_calibrated(self, task):
        scores, _ = scores_of(n=4)
        answers = Answers([0] * 4, ["bad"] * 4, scores)
        calibration = Calibration(1.0, (-900.0, 0.0, 900.0), LABELS)

        ours, other = (
            dataclasses.replace(task, labels=labels, label_values=()) for labels in (LABELS, ("no", "yes", "maybe"))
        )
        assert answers.calibrated(calibration, other) is answers
        assert answers.calibrated(calibration, ours).values == [2] * 4


@pytest.fixture(scope="module")
def folder(tiny_gpt, save_tiny, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"), *tiny_gpt())


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("reviews") / "data")


SHORT = {"steps": 4, "eval_every": 2, "batch_size": 4, "prompt_length": 2, "loss": "labels", "calibrate": True}


@pytest.fixture(scope="module")
def calibrated(task, folder, tmp_path_factory):
    """A run with a loss over labels and a calibration, and its prompt."""
    run = train(task, str(folder), **SHORT, output=tmp_path_factory.mktemp("runs") / "run")
    return run, run.prompt(0)


class TestRun:
    def test_the_result_holds_the_quality_of_scores_before_and_after(self, calibrated):
        run, prompt = calibrated
        told = run.results[0].calibration
        assert told["labels"] == ["bad", "good"]
        assert set(told) == {"temperature", "bias", "labels", "validation", "test"}
        assert told["validation"]["after"]["nll"] <= told["validation"]["before"]["nll"] + 1e-9
        assert {"score", "nll", "ece"} == set(told["test"]["after"])
        assert prompt.provenance.scoring == {
            "version": 1, "end": False, "calibration": {k: told[k] for k in ("temperature", "bias", "labels")}
        }  # fmt: skip

    def test_evaluate_and_predict_answer_by_it_unless_told_otherwise(self, calibrated, task):
        run, prompt = calibrated
        told, texts = run.results[0].calibration, ["a good film", "the movie was bad"]
        for calibrate, when in ((True, "after"), (False, "before")):
            found = evaluate(prompt, calibrate=calibrate)
            assert found.metrics["score"] == told["test"][when]["score"]
            assert found.calibration_error == pytest.approx(told["test"][when]["ece"], abs=1e-6)
        assert run.results[0].metrics["test"]["score"] == told["test"]["after"]["score"]
        plain, fitted = (prompt.predict(texts, calibrate=calibrate) for calibrate in (False, True))
        calibration = Scoring.of(prompt).calibration
        assert calibration is not None
        scores = torch.tensor([list(line["scores"].values()) for line in plain], dtype=torch.float64).log()
        expected = calibration.apply(scores).exp().tolist()
        for line, row in zip(fitted, expected, strict=True):
            assert list(line["scores"].values()) == pytest.approx(row, rel=1e-4)
            assert line["label"] == max(line["scores"], key=line["scores"].get)

    def test_the_quality_is_that_of_the_answers(self, monkeypatch):
        scores, gold = scores_of(n=50)
        found = quality(scores, gold)
        monkeypatch.setattr(calibration_file, "PART", 7)
        assert quality(scores, gold) == found
        assert found["nll"] == pytest.approx(functional.cross_entropy(scores, torch.tensor(gold)).item())

    def test_a_resumed_run_stores_the_same_bytes(self, calibrated, task, folder, tmp_path, monkeypatch):
        from softprompt.training import _train as train_module

        run, _ = calibrated
        monkeypatch.setattr(train_module, "last_reports", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(Interrupted):
            train(task, str(folder), **SHORT, output=tmp_path / "run")
        monkeypatch.undo()
        resume(tmp_path / "run")
        # Checkpoints count the bytes of timing.jsonl, which vary with the seconds in it.
        (result,) = run.results
        assert same_files(run.folder / result.prompt, tmp_path / "run" / result.prompt)
        again = resume(tmp_path / "run")
        assert again.results[0].calibration == run.results[0].calibration

    def test_the_plan_says_which_loss_auto_was_and_a_plan_of_before_means_tokens(self, task, folder, tmp_path):
        short = {**SHORT, "steps": 1, "loss": "auto", "calibrate": False}
        run = train(task, str(folder), **short, output=tmp_path / "run")
        path = run.folder / "run.json"
        stored = json.loads(path.read_text())
        assert stored["settings"]["loss"] == "labels"
        prompt = json.loads((run.folder / run.results[0].prompt / "prompt" / "prompt.json").read_text())
        assert prompt["provenance"]["scoring"] == {"version": 1, "end": False}
        later = ("loss", "label_smoothing", "class_weights", "calibrate")
        rewrite(path, lambda plan: [plan["settings"].pop(name) for name in later])
        assert read_plan(run.folder).settings.loss == "tokens"

    def test_the_readme_of_an_export_says_how_to_calibrate(self, calibrated):
        _, prompt = calibrated
        code = readme(prompt).partition("those of calibrated labels")[2].split("```")[1].removeprefix("python")
        plain, expected = (predict(prompt, ["a good film"], calibrate=on)[0]["scores"] for on in (False, True))
        names: dict[str, Any] = {"scores": torch.tensor(list(plain.values())).log()}
        exec(code, names)
        assert names["probabilities"].tolist() == pytest.approx(list(expected.values()), abs=1e-6)
        assert plain != expected

    def test_one_that_was_stored_reads_again(self, calibrated, tmp_path):
        _, prompt = calibrated
        assert Scoring.of(SoftPrompt.load(prompt.save(tmp_path / "prompt"))) == Scoring.of(prompt)
