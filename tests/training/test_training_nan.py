"""A prompt with which the model computes NaN has no score: its answers would all be the first label."""

import dataclasses
import math

import pytest
import torch
from softprompt.training._finish import finish_member, last_reports
from softprompt.training._records import read_record
from softprompt.training._scorer import Scorer

from training_kit import entry, loop_of, plan_of, prepared, run_quietly

TWO = (entry("prompt-tuning", 0, options={"prompt_length": 2}), entry("prompt-tuning", 1, options={"prompt_length": 2}))


@pytest.fixture
def nan_from(monkeypatch):
    """Called with a number of calls: from then on the first prompt's answers to the first row are NaN."""
    calls = []

    def spoil(allowed, rows=None):
        plain = Scorer.answers

        def answers(scorer, prompts, examples, chosen=None):
            found = plain(scorer, prompts, examples, chosen)
            calls.append(examples)
            if len(calls) <= allowed or not found or (rows is not None and examples is not rows):
                return found
            assert found[0].scores is not None
            scores = found[0].scores.clone()
            scores[0] = torch.nan
            return [dataclasses.replace(found[0], scores=scores), *found[1:]]

        monkeypatch.setattr(Scorer, "answers", answers)

    return spoil


@pytest.fixture
def run_data(task, tiny_gpt, save_tiny, tmp_path):
    folder = save_tiny(tmp_path / "model", *tiny_gpt())
    return prepared(plan_of(task, folder, TWO, steps=4, eval_every=2, batch_size=4))


class TestNan:
    def test_an_evaluation_without_answers_is_no_score(self, run_data, tmp_path, nan_from):
        nan_from(allowed=1)
        loop = run_quietly(loop_of(run_data.plan, run_data, tmp_path / "run"))
        first, second = loop.members
        assert first.status == "dropped at step 4: the model computes NaN with it on validation rows"
        assert first.best_step == 2
        assert second.status == "training"
        scored = [row["step"] for row in read_record(first.record.path) if row.get("split") == "validation"]
        assert scored == [2]

    def test_words_without_answers_are_not_stored(self, run_data, tmp_path, nan_from):
        loop = loop_of(run_data.plan, run_data, tmp_path / "run")
        for member in loop.members:
            member.beginning = member.trainable.fold(member.provenance)
        nan_from(allowed=0)
        loop._judge_beginnings()
        assert [member.best_step for member in loop.members] == [0, 0]
        assert loop.members[0].best is None
        assert loop.members[1].best is not None

    def test_test_rows_without_answers_leave_no_test_score(self, run_data, tmp_path, nan_from):
        loop = run_quietly(loop_of(run_data.plan, run_data, tmp_path / "run"))
        nan_from(allowed=0, rows=run_data.test)
        reports = last_reports(loop.members, loop.scorer)
        results = [finish_member(m, loop.scorer, tmp_path / "run", 1.0, reports) for m in loop.members]
        assert list(results[0].metrics) == ["validation"]
        assert results[0].is_dropped
        assert results[0].status.endswith("the model computes NaN with it on test rows")
        assert any("NaN" in line for line in results[0].warnings)
        assert math.isfinite(results[1].metrics["test"]["score"])
        assert results[1].status == "finished"
