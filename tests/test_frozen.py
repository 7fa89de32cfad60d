"""What a frozen model does without training, as prompts are compared with it."""

import dataclasses
import json
import shutil

import pytest
import torch
from softprompt import report, resume, train
from softprompt.backbones import from_model
from softprompt.cli import main
from softprompt.cli._references import comparison_table
from softprompt.data import Rows, limited
from softprompt.errors import BadInput, DamagedFile
from softprompt.inference.asked import worded_for
from softprompt.inference.frozen import Baseline, baselines, handwritten, over
from softprompt.inference.in_context import drawn_examples, written
from softprompt.inference.intervals import difference_interval
from softprompt.inference.kept_baselines import kept_baselines
from softprompt.inference.without_prompt import fitted_bias, label_scores_of
from softprompt.inference.wordings import casings, compared, ways_to_put
from softprompt.tasks import TASKS, Source, Task, Wording, custom_task
from softprompt.training import read_comparison, read_plan
from softprompt.training._advice import no_words, not_better

PAIRS = (("good", "good"), ("bad", "bad"))
ROWS = Rows({"text": ["a good film", "a bad film", "a great movie", "the movie was terrible"], "label": [1, 0, 1, 0]})


def own(**fields):
    values = {"name": "own", "source": Source(), "template": "{text}", "labels": ("bad", "good"), **fields}
    return Task(**values)


@pytest.fixture(scope="module")
def decoder(tiny_gpt):
    return from_model(*tiny_gpt(n_positions=256))


class TestContext:
    def test_examples_are_written_as_rows_are_put_with_their_answers(self, decoder):
        task = own(template="Film: {text}\nTone:", cue="", instruction="Good or bad?")
        assert written(decoder, task, list(ROWS)[:2]) == (
            "Film: a good film\nTone: good\n\nFilm: a bad film\nTone: bad\n\n"
        )
        assert written(decoder, own(), [ROWS[1]]) == "a bad film answer: bad\n\n"

    def test_they_are_balanced_by_class_and_differ_between_draws(self):
        assert sorted(row["label"] for row in drawn_examples(own(), ROWS, 2, 0)) == [0, 1]
        draws = {tuple(row["text"] for row in drawn_examples(own(), ROWS, 2, seed)) for seed in range(6)}
        assert len(draws) > 1

    def test_a_context_is_read_between_the_instruction_and_the_row_and_not_cut(self, decoder):
        task = own(instruction="Good or bad?", max_length=24)
        context = "a bad film answer: bad\n\n" * 5
        scores = label_scores_of(decoder, task, [{"text": "a film"}], context)
        ids = decoder.tokenizer(f"Good or bad?\n{context}a film answer:", return_tensors="pt").input_ids
        logits = decoder.model(ids).logits[0, -1].log_softmax(-1)
        bad, good = (decoder.tokenizer(word).input_ids[0] for word in (" bad", " good"))
        assert decoder.tokenizer.decode([bad, good]) == " bad good"
        assert len(decoder.tokenizer(context).input_ids) > task.max_length
        torch.testing.assert_close(scores[0], logits[torch.tensor([bad, good])], atol=1e-4, rtol=1e-4)


class TestBaselines:
    def test_a_decoder_has_all_of_them_on_the_same_rows(self, decoder):
        task = own(instruction="good or bad", template="{text} it was", cue="")
        found = baselines(decoder, task, ROWS, ROWS)
        assert [line.name for line in found] == ["majority", "frozen", "instruction", *["4 examples"] * 3]
        assert {len(line.predictions) for line in found} == {4}
        assert (found[0].score, found[1].text, found[2].text) == (0.5, "{text} it was", "good or bad\n{text} it was")
        direct = label_scores_of(decoder, dataclasses.replace(task, instruction=""), ROWS).argmax(-1).tolist()
        assert found[1].predictions == direct
        assert all(line.calibrated is None for line in found)
        assert [Baseline.from_json(json.loads(json.dumps(line.to_json()))) for line in found] == found

    def test_examples_that_do_not_fit_are_left_out_with_a_warning(self, tiny_gpt, caplog):
        backbone = from_model(*tiny_gpt())
        train_rows = Rows({"text": ["film " * 15] * 4, "label": [0, 1, 0, 1]})
        found = baselines(backbone, own(), ROWS, train_rows)
        assert [line.name for line in found] == ["majority", "frozen"]
        (told,) = [text for text in caplog.messages if "no examples in context: row 1 has" in text]
        assert (
            "does not suffice; 'GPT2LMHeadModel' has 64 positions in all: give shorter texts, or a model with more"
            in told
        )
        assert "max-length" not in told

    @pytest.mark.parametrize("films", [36, 100], ids=["whole alone", "cut alone, too"])
    def test_examples_for_which_rows_are_cut_are_left_out_with_a_warning(self, tiny_gpt, caplog, films):
        backbone = from_model(*tiny_gpt())
        train_rows = Rows({"text": ["a film"] * 4, "label": [0, 1, 0, 1]})
        rows = Rows({"text": ["film " * films, "a film"], "label": [0, 1]})
        assert [line.name for line in baselines(backbone, own(), rows, train_rows)] == ["majority", "frozen"]
        (told,) = [text for text in caplog.messages if "no examples in context" in text]
        assert "1 of 2 rows would be cut to fewer tokens behind the examples than they are alone; 'GPT2LM" in told

    def test_rows_that_the_tasks_length_cuts_have_examples_where_the_positions_suffice(self, decoder):
        rows = Rows({"text": ["film " * 100, "a film"], "label": [0, 1]})
        found = baselines(decoder, own(max_length=40), rows, ROWS)
        assert [line.name for line in found][2:] == ["4 examples"] * 3

    def test_a_head_that_was_not_trained_answers_nothing(self, tiny_bert):
        backbone = from_model(*tiny_bert(head=False))
        assert [line.name for line in baselines(backbone, own(), ROWS, ROWS)] == ["majority"]

    def test_an_encoder_decoder_gets_no_examples(self, tiny_t5):
        names = [line.name for line in baselines(from_model(*tiny_t5()), own(), ROWS, ROWS, calibrate=True)]
        assert names == ["majority", "frozen"]

    def test_a_number_has_no_baseline(self, decoder):
        with pytest.raises(BadInput, match="baselines are of tasks with labels, so train a prompt on it without them"):
            baselines(decoder, own(answer="number", labels=()), ROWS, ROWS)

    def test_the_hand_written_input_is_the_tasks_own_or_the_best_known(self):
        own_words = own(instruction="Which?")
        assert handwritten(own_words, "decoder", ["text"]) is own_words
        assert handwritten(own(), "decoder", ["text"]) is None
        sst2 = handwritten(TASKS["glue/sst2"], "decoder", ["sentence", "label"])
        assert sst2 is not None
        assert sst2.template == "Review: {sentence}\nSentiment:"
        assert handwritten(TASKS["glue/sst2"], "decoder", ["other"]) is None
        assert handwritten(TASKS["glue/sst2"], "encoder", ["sentence"]) is None

    def test_rows_are_limited_by_a_draw_that_keeps_their_order(self):
        assert limited(ROWS, 9) is ROWS
        assert list(limited(ROWS, 2).columns["text"]) in [
            [ROWS[i]["text"], ROWS[j]["text"]] for i in range(4) for j in range(i + 1, 4)
        ]


class TestCalibration:
    def test_it_undoes_what_a_model_prefers_whatever_the_text_says(self):
        right = [0, 1, 2] * 10
        fair = torch.nn.functional.one_hot(torch.tensor(right)).float()
        tilted = fair + torch.tensor([5.0, 0.0, -5.0])
        assert tilted.argmax(-1).tolist() != right
        bias = fitted_bias(tilted, right)
        assert (tilted + bias).argmax(-1).tolist() == right
        assert abs(float(bias.sum())) < 1e-5
        torch.testing.assert_close(bias, torch.tensor([-5.0, 0.0, 5.0]), atol=0.2, rtol=0)


class TestDifference:
    def test_the_same_answers_differ_by_nothing(self):
        assert difference_interval(("accuracy",), [0, 1, 1], [0, 1, 1], [0, 0, 1]) == (0, 0)

    def test_a_single_row_tells_nothing(self):
        assert difference_interval(("accuracy",), [1], [0], [1]) == (-1, 1)

    def test_it_is_of_pairs_so_that_hard_rows_do_not_blur_it(self):
        gold = [0, 1] * 50
        ours = [0, 1] * 25 + [1, 0] * 25
        theirs = [1, 1, *ours[2:]]
        line = Baseline(name="frozen", score=0.49, interval=None, predictions=theirs)
        difference, (low, high) = over(own(), ours, line, gold)
        assert difference == pytest.approx(0.01)
        assert (low, high) == (0, pytest.approx(0.03, abs=0.011))


class TestWordings:
    def test_label_words_are_tried_in_each_case_once(self):
        assert casings(("Bad", "good")) == [("Bad", "good"), ("bad", "good"), ("Bad", "Good")]
        assert casings(("1", "2")) == [("1", "2")]

    def test_a_known_task_is_put_in_every_way_that_a_decoder_can_read(self, decoder):
        rte = TASKS["glue/rte"]
        names = list(ways_to_put(rte, decoder, ["sentence1", "sentence2", "label"]))
        assert names == ["words", "instruct", "instruct, no instruction", "pet-4"]

    def test_they_are_compared_on_the_rows_given_the_best_first(self, decoder):
        found = compared(decoder, own(labels=("bad", "good")), ROWS)
        assert [way.score for way in found] == sorted((way.score for way in found), reverse=True)
        assert {way.task.labels for way in found} == {("bad", "good"), ("Bad", "Good")}
        direct = label_scores_of(decoder, own(labels=("Bad", "Good")), ROWS).argmax(-1).tolist()
        hits = sum(a == b for a, b in zip(direct, ROWS.columns["label"], strict=True)) / 4
        assert {way.task.labels: way.score for way in found}["Bad", "Good"] == hits


def test_the_command_shows_what_the_instruction_is_worth_to_a_model_that_knows_it(lab_gpt, capsys):
    words = ["frozen", "lab/color", "--model", "lab-gpt", "--limit", "24", "--device", "cpu", "--json"]
    assert main([*words, "--task-option", "train=40", "--no-wordings"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_name = {line["name"]: line for line in lines}
    assert list(by_name)[:3] == ["majority", "frozen", "instruction"]
    assert by_name["instruction"]["score"] > by_name["frozen"]["score"] + 0.3
    assert {line["rows"] for line in lines} == {24}


def test_the_command_names_the_training_rows_that_there_were(lab_gpt, capsys):
    words = ["frozen", "lab/color", "--model", "lab-gpt", "--limit", "4", "--device", "cpu"]
    assert main([*words, "--task-option", "train=24"]) == 0
    said = capsys.readouterr().out
    assert "fitted on 24 training rows" in said
    assert "known wordings on 24 training rows" in said


def test_the_command_has_the_option_that_it_advises_for_rows_that_are_too_long(lab_gpt, capsys):
    words = ["frozen", "lab/color", "--model", "lab-gpt", "--limit", "4", "--device", "cpu", "--task-option", "train=8"]
    assert main([*words, "--no-wordings", "--max-length", "2"]) == 2
    said = capsys.readouterr().err
    assert "a row may have 2 with it" in said
    assert "raise --max-length" in said


VARIED = [
    {"text": f"{first} {second} {third}", "kind": kind}
    for first in ("a", "the", "movie")
    for second in ("film", "good", "bad", "great")
    for third, kind in (
        ("boring", "bad"),
        ("terrible", "a great movie"),
        ("wonderful", "bad"),
        ("film", "a great movie"),
    )
]


@pytest.fixture(scope="module")
def trained(tiny_gpt, tmp_path_factory):
    backbone = from_model(*tiny_gpt(n_positions=256), name="tiny")
    rows = [{"text": f"a {word} film {number}", "kind": kind} for number in range(12) for word, kind in PAIRS]
    return train(
        rows, backbone, label_column="kind", text_column="text", instruction="good or bad", steps=2, eval_every=2,
        method="prompt-tuning", prompt_length=2, with_frozen=True, output=tmp_path_factory.mktemp("runs") / "run",
        template="{text} it was",
    )  # fmt: skip


class TestNoWords:
    """Rows of a user on a decoder, of which nobody has said what the model is to do."""

    def test_it_is_told_once_and_before_training(self, decoder, tmp_path, caplog, monkeypatch):
        def stopped(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("softprompt.training._train.prepare", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(VARIED, decoder, label_column="kind", text_column="text", output=tmp_path / "run")
        assert len([line for line in caplog.messages if "no instruction and no template" in line]) == 1

    def test_not_where_words_were_given_or_no_decoder_reads_them(self):
        rows = custom_task(VARIED, text_columns="text", label_column="kind")
        none = Wording()
        (line,) = no_words(rows, worded_for(rows, "decoder"), none, "decoder")
        assert "softprompt frozen" in line
        for wording in (Wording(instruction="Which?"), Wording(template="{text} it was")):
            assert no_words(rows, worded_for(rows, "decoder", None, wording), wording, "decoder") == []
        assert no_words(rows, worded_for(rows, "encoder-decoder"), none, "encoder-decoder") == []
        assert no_words(TASKS["glue/rte"], worded_for(TASKS["glue/rte"], "decoder", "words"), none, "decoder") == []


class TestExamplesAreRecommended:
    """A default prompt on a decoder begins as the instruction; behind it four short rows were better."""

    @pytest.mark.parametrize(
        ("settings", "rows", "is_told"),
        [
            ({}, VARIED, True),
            ({"init": "instruction"}, VARIED, False),
            ({"method": ["prompt-tuning", "ept"]}, VARIED, False),
            ({}, [{**row, "text": row["text"] + " film" * 60} for row in VARIED], False),
        ],
        ids=["default", "given", "compared", "long rows"],
    )
    def test_where_the_default_took_the_instruction_and_rows_are_short(
        self, settings, rows, is_told, tiny_gpt, tmp_path, caplog, monkeypatch
    ):
        def stopped(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("softprompt.training._train.build_prompts", stopped)
        decoder = from_model(*tiny_gpt(n_positions=512))
        asked = {"label_column": "kind", "text_column": "text", "instruction": "good or bad", **settings}
        with pytest.raises(KeyboardInterrupt):
            train(rows, decoder, output=tmp_path / "run", **asked)
        assert sum("`init`=examples:4" in line or "--init=examples:4" in line for line in caplog.messages) == is_told


class TestBesideTrainedPrompts:
    def test_they_and_the_baselines_are_of_the_same_rows(self, trained):
        found = trained.comparison
        assert [line.name for line in found.baselines][:3] == ["majority", "frozen", "instruction"]
        assert (found.reference, found.rows) == ("instruction", found.of)
        (prompt,) = found.prompts
        assert prompt.difference == pytest.approx(prompt.score - found.best.score)
        assert prompt.score == pytest.approx(trained.results[0].metrics["test"]["score"])

    def test_the_earlier_name_of_the_keyword_works(self, decoder, tmp_path, monkeypatch):
        def stopped(plan, *_):
            assert plan.with_frozen
            raise KeyboardInterrupt

        monkeypatch.setattr("softprompt.training._train.decided", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(VARIED, decoder, label_column="kind", text_column="text", output=tmp_path / "run", frozen=True)

    def test_a_run_that_goes_on_still_compares(self, trained):
        plan = read_plan(trained.folder)
        assert plan.with_frozen
        assert plan.model.quantize is None

    def test_the_run_keeps_them_and_does_not_compute_them_again(self, trained):
        path = trained.folder / "frozen.json"
        about = {"places": list(range(trained.comparison.of)), "scoring": {"version": 1, "end": False}}
        lines = kept_baselines(path, about, lambda: pytest.fail("computed again"))
        assert lines == list(trained.comparison.baselines)

    def test_a_finished_run_that_is_gone_on_with_has_its_comparison_unless_it_is_damaged(
        self, trained, tmp_path, caplog
    ):
        assert resume(trained.folder).comparison == trained.comparison
        shutil.copytree(trained.folder, tmp_path / "run")
        path = tmp_path / "run" / "comparison.json"
        path.write_bytes(path.read_bytes().replace(b"instruction", b"instructior"))
        assert resume(tmp_path / "run").comparison is None
        (line,) = caplog.messages
        assert f"'{path}' is not as it was written" in line

    def test_the_run_keeps_the_comparison_and_a_report_shows_it(self, trained, tmp_path):
        assert read_comparison(trained.folder) == trained.comparison
        page = report(trained.folder, output=tmp_path / "report.html").read_text()
        low, high = trained.comparison.prompts[0].difference_interval
        assert f"{low:+.3f} to {high:+.3f}" in page
        assert "frozen model, no prompt" in page

    def test_baselines_of_other_rows_or_of_another_way_to_score_are_replaced(self, trained, tmp_path):
        lines, path = list(trained.comparison.baselines), tmp_path / "frozen.json"
        for about in ({"places": [0]}, {"places": [1]}, {"places": [1], "scoring": {"version": 1, "end": False}}):
            assert kept_baselines(path, about, lambda: lines[:1]) == lines[:1]
            assert kept_baselines(path, about, lambda: pytest.fail("computed again")) == lines[:1]
        path.write_text("{")
        with pytest.raises(DamagedFile, match="delete it"):
            kept_baselines(path, about, lambda: lines)

    def test_a_prompt_that_is_no_better_is_told_of(self, trained):
        assert trained.comparison is not None
        worse = dataclasses.replace(trained.comparison.prompts[0], difference=-0.1, score=0.4)
        (line,) = not_better(dataclasses.replace(trained.comparison, prompts=[worse]))
        assert "no better than the hand-written instruction: 0.4000 against" in line
        assert "try more --steps" in line
        better = dataclasses.replace(worse, difference=0.1)
        assert not_better(dataclasses.replace(trained.comparison, prompts=[better])) == []

    def test_a_frozen_model_without_a_mistake_leaves_nothing_to_try(self, trained):
        without = [dataclasses.replace(line, score=1.0) for line in trained.comparison.baselines]
        (line,) = not_better(dataclasses.replace(trained.comparison, baselines=without, prompts=[
            dataclasses.replace(trained.comparison.prompts[0], difference=0.0, score=1.0)
        ]))  # fmt: skip
        assert "has no mistake on these rows, so they cannot show a gain" in line
        assert "--steps" not in line

    def test_the_table_shows_them_above_the_prompts(self, trained):
        lines = comparison_table(trained.comparison).splitlines()
        assert lines[0].split()[:4] == ["on", "the", "same", "rows"]
        assert [line.split()[0] for line in lines[1:4]] == ["majority", "frozen", "instruction"]
        assert lines[-1] == f"{trained.comparison.rows} test rows"
        assert lines[-2].startswith(trained.comparison.prompts[0].name)


@pytest.mark.parametrize(
    ("normalize", "decode", "calibrate"),
    [("sum", "auto", False), ("mean", "auto", False), ("sum", "generate", False), ("sum", "auto", True)],
)
def test_a_prompt_that_is_the_instruction_scores_what_the_row_of_the_instruction_says(
    normalize, decode, calibrate, decoder, tmp_path
):
    """One rule scores both: with an end of sequence, by sums or means, calibrated, or what the model writes."""
    run = train(
        VARIED, decoder, test_data=VARIED, validation_data=VARIED, label_column="kind", text_column="text",
        instruction="good or bad", template="{text} it was", init="instruction", with_frozen=True, normalize=normalize,
        loss="tokens" if decode == "generate" else "labels", decode=decode, steps=1, eval_every=1, lr=1e-12,
        batch_size=2, max_new_tokens=3, calibrate=calibrate, output=tmp_path / "run",
    )  # fmt: skip
    assert run.comparison is not None
    lines = {line.name: line for line in run.comparison.baselines}
    (prompt,) = run.comparison.prompts
    assert lines["instruction"].score == prompt.score == run.results[0].metrics["test"]["score"]
    # What chose the prompt is not calibrated.
    assert calibrate or lines["instruction"].score == run.results[0].metrics["validation"]["score"]
    assert prompt.difference_interval == (0, 0)
    assert prompt.predictions == lines["instruction"].predictions
