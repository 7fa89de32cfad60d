"""What a run leaves: scores, prompts, records and trackers."""

import dataclasses
import logging
import math

import pytest
import torch
from softprompt.backbones import load_backbone
from softprompt.data import load_rows, rows_of, split_rows
from softprompt.errors import BadInput, UnknownName
from softprompt.inference.answers import answer
from softprompt.inference.evaluate import evaluate
from softprompt.inference.report import Report
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.settings import TrainSettings
from softprompt.tasks import TASKS, custom_task
from softprompt.training import read_results, train
from softprompt.training._advice import ADVICE, not_learning, repeated, without_advice, worse_calibrated
from softprompt.training._finish import own_rows
from softprompt.training._last import Last
from softprompt.training._prepare import training_rows, unseen_labels
from softprompt.training._records import read_record

from kit import review_rows, same_files
from training_kit import FOUR, entry, plan_of, prepared, started


def learning_of(plan, losses, score, folder):
    """The warnings of a prompt with these losses and this score, of four rows of which two are of class 1."""
    task = dataclasses.replace(plan.task, headline=("macro-f1",))
    run_data = prepared(dataclasses.replace(plan, task=task))
    run_data = dataclasses.replace(run_data, validation=dataclasses.replace(run_data.validation, gold=[1, 1, 0, 0]))
    one = started(run_data, folder)[0]
    for step, loss in enumerate(losses, 1):
        one.record.write({"step": step, "loss": loss})
    one.record.mark()
    one.best, one.best_score = one.trainable.fold(one.provenance), score
    return not_learning(one, run_data)


class TestTrainScore:
    def test_it_is_the_score_of_the_stored_prompt_on_the_rows_that_it_was_trained_on(self, task, t5_folder, tmp_path):
        prompts = (entry(seed=1, lr=0.3), entry("ept-star", seed=2, lr=0.3))
        settings = TrainSettings(steps=6, eval_every=3, batch_size=4, shots=10, train_score=True)
        run = train(task, str(t5_folder), prompts=prompts, settings=settings, output=tmp_path / "run")
        plan = plan_of(task, t5_folder, prompts, shots=10)
        run_data = prepared(plan)
        for number, result in enumerate(run.results):
            rows = run_data.train.select(training_rows(run_data, prompts[number]))
            assert len(rows) == 10
            prompt = run.prompt(number)
            expected = Report.from_answers(task, rows, answer(run_data.backbone, PromptBatch.of(prompt), rows, task))
            assert result.metrics["train"] == {**expected.metrics, "invalid": expected.invalid}
            assert prompt.provenance.metrics == result.metrics

    def test_it_changes_nothing_else_and_is_off_by_default(self, task, t5_folder, tmp_path):
        settings = TrainSettings(steps=4, eval_every=2, batch_size=4)
        for name, asked in (("plain", False), ("scored", True)):
            asked = dataclasses.replace(settings, train_score=asked)
            train(task, str(t5_folder), prompts=FOUR[:1], settings=asked, output=tmp_path / name)
        plain, scored = (read_results(tmp_path / name)[0].metrics for name in ("plain", "scored"))
        assert set(plain) == {"validation", "test"}
        assert {split: scored[split] for split in plain} == plain
        a, b = (next((tmp_path / name).glob("*/metrics.jsonl")) for name in ("plain", "scored"))
        assert a.read_bytes() == b.read_bytes()

    def test_of_many_rows_500_are_drawn_by_the_seed_of_the_draw(self):
        rows = list(range(0, 4000, 2))
        found = own_rows(rows, 3)
        assert len(set(found)) == 500
        assert found == sorted(found) == own_rows(rows, 3) != own_rows(rows, 4)
        assert set(found) < set(rows)
        # Not the first ones: rows may be in the order of their classes.
        assert abs(sum(found) / 500 - 2000) < 200
        assert own_rows([5, 3, 1], 0) == [5, 3, 1]


class TestResults:
    def test_the_stored_prompt_has_the_recorded_scores(self, task, t5_folder, tmp_path):
        run = train(
            task,
            str(t5_folder),
            prompts=FOUR[:2],
            settings=TrainSettings(steps=8, eval_every=4),
            output=tmp_path / "run",
        )
        for number, result in enumerate(run.results):
            for split in ("validation", "test"):
                again = evaluate(run.prompt(number), split=split)
                recorded = {k: v for k, v in result.metrics[split].items() if k != "invalid"}
                assert again.metrics == recorded

    def test_two_runs_with_the_same_seeds_leave_the_same_bytes_and_another_seed_does_not(
        self, task, t5_folder, tmp_path
    ):
        settings = TrainSettings(steps=4, eval_every=2)
        for name, seed in (("a", 5), ("b", 5), ("c", 6)):
            prompts = [entry(seed=seed, options={"prompt_length": 2})]
            train(task, str(t5_folder), prompts=prompts, settings=settings, output=tmp_path / name)
        assert same_files(tmp_path / "a", tmp_path / "b", ignore=("timing.jsonl", "state.json", "manifest.json"))
        first, other = (next((tmp_path / n).glob("*/metrics.jsonl")).read_text() for n in ("a", "c"))
        assert first != other

    def test_the_record_holds_the_norm_of_equation_4_and_the_learning_rate(self, task, t5_folder, tmp_path):
        settings = TrainSettings(steps=1, warmup=0)
        train(task, str(t5_folder), prompts=[entry(lr=0.25)], settings=settings, output=tmp_path / "run")
        first = next(read_record(next((tmp_path / "run").glob("*/metrics.jsonl"))))
        backbone = load_backbone(str(t5_folder))
        initial = TrainablePrompt.build(entry(), uniform(), backbone.embeddings.weight, None).vectors()
        assert first["lr"] == 0.25
        assert first["prompt_norm"] == pytest.approx(initial.norm(dim=1).mean().item(), rel=1e-6)

    def test_a_prompt_that_learns_nothing_is_reported_with_what_to_try(self, task, t5_folder, tmp_path, caplog):
        settings = TrainSettings(steps=20, eval_every=10)
        run = train(task, str(t5_folder), prompts=[entry(lr=1e-12)], settings=settings, output=tmp_path / "run")
        assert "not learning" in " ".join(run.results[0].warnings)
        assert "--lr" in caplog.text

    def test_advice_that_was_off_stays_off_behind_a_block_without_it(self, monkeypatch):
        logger = logging.getLogger(ADVICE)
        for is_off in (True, False):
            monkeypatch.setattr(logger, "disabled", is_off)
            with without_advice():
                with without_advice():
                    assert logger.disabled
                assert logger.disabled
            assert logger.disabled == is_off

    def test_rows_that_stand_in_two_splits_are_counted_before_training(self, t5_folder, tmp_path, caplog):
        rows = "text,label\n" + "".join(f"{text},{label}\n" for text, label in review_rows(20, 0))
        files = {"train": tmp_path / "train.csv", "test": tmp_path / "folder" / ".." / "train.csv"}
        (tmp_path / "folder").mkdir()
        files["train"].write_text(rows)
        keywords = {"text_column": "text", "label_column": "label", "steps": 1, "method": "prompt-tuning"}
        train(files, str(t5_folder), **keywords, output=tmp_path / "run")
        told = [line for line in caplog.messages if "have a text of" in line]
        # A tenth of the training rows validates, and the test rows hold it too.
        assert told == [
            "18 of 20 test rows have a text of the train rows, so that their score says less of new rows; take such "
            "rows out of one of the two",
            "2 of 20 test rows have a text of the validation rows, so that their score says less of new rows; take "
            "such rows out of one of the two",
        ]

    def test_rows_of_a_task_with_splits_of_its_own_or_given_twice_in_memory_are_not_counted(self, task):
        rows = [{"text": text, "label": label} for text, label in review_rows(8, 0)]
        options = {"text_columns": ["text"], "label_column": "label"}
        for test_rows, expected in ((rows, 0), (rows[:4], 2)):
            own = custom_task({"train": rows, "validation": rows, "test": test_rows}, **options)
            assert len(repeated(own, split_rows(own, load_rows(own)))) == expected
        assert repeated(TASKS["lab/weekend"], split_rows(own, load_rows(own))) == []

    @pytest.mark.parametrize(
        ("losses", "score", "reason"),
        [
            ([1.0, 0.9, 0.5, 0.2], 0.9, None),
            ([1.0, 0.9, 0.5, 0.2], 1 / 3, "most frequent class"),
            ([9.0, 0.9, 0.7, 0.34], 0.9, None),
            ([9.0, 0.9, 0.7, 0.33], 0.6, None),
            (
                [9.0, 0.9, 0.7, 0.34],
                0.6,
                "its last steps is 0.3400 nats, that of a guess among 2 labels is 0.3466 under --loss=tokens; try",
            ),
        ],
    )
    def test_each_sign_of_not_learning_is_seen_alone(self, losses, score, reason, task, t5_folder, tmp_path):
        # An answer of T5 is a label and the end of the sequence, which a guess knows: it costs (ln 2 + 0) / 2.
        found = learning_of(plan_of(task, t5_folder, [entry()], steps=4), losses, score, tmp_path)
        assert [reason in line for line in found] == ([True] if reason else [])

    @pytest.mark.parametrize(
        ("settings", "losses", "reason"),
        [
            ({"loss": "labels"}, [9.0, 0.67], None),
            ({"loss": "labels"}, [9.0, 0.69], "that of a guess among 2 labels is 0.6931 under --loss=labels"),
            ({"loss": "both"}, [9.0, 0.5], None),
            ({"loss": "both"}, [9.0, 0.52], "that of a guess among 2 labels is 0.5199 under --loss=both"),
            ({"class_weights": "5,1"}, [0.97, 0.7], None),
            ({"class_weights": "5,1"}, [0.97, 0.96], "the loss went from 0.9700 to 0.9600 nats"),
            ({"loss": "labels", "label_smoothing": 0.9}, [0.72, 0.69], None),
        ],
    )
    def test_a_guess_costs_what_the_loss_of_the_run_makes_of_it(
        self, settings, losses, reason, task, t5_folder, tmp_path
    ):
        found = learning_of(plan_of(task, t5_folder, [entry()], steps=4, **settings), losses, 0.6, tmp_path)
        assert [reason in line for line in found] == ([True] if reason else [])

    def test_a_calibration_that_answers_worse_is_told_of(self, task, t5_folder, tmp_path):
        one = started(prepared(plan_of(task, t5_folder, [entry()], steps=4)), tmp_path)[0]
        found = []
        for after in (0.5, 0.6, 0.4):
            calibrated = {"validation": {"before": {"score": 0.5}, "after": {"score": after}}}
            found.append(worse_calibrated(one, Last({}, calibrated=calibrated)))
        assert found[:2] == [[], []]
        assert "is 0.4000, and 0.5000 as it was chosen" in found[2][0]
        assert worse_calibrated(one, Last({})) == []

    def test_labels_of_which_no_choosing_row_is_are_named(self, task, t5_folder, tmp_path):
        validation = rows_of(split_rows(task, load_rows(task)), "validation")
        lines = []
        for count in (1, 2, None):
            run_data = prepared(plan_of(task, t5_folder, [entry()], steps=4, eval_rows=count))
            lines.append(unseen_labels(run_data, validation))
        assert lines[1:] == [[], []]
        assert (
            "the first 1 validation rows (--eval-rows), which choose the best prompt, have no row of 'good'"
            in lines[0][0]
        )

    def test_a_head_alone_that_learns_nothing_is_given_advice_on_its_own_rate(self, task, bert_folder, tmp_path):
        plan = plan_of(task, bert_folder, [entry("linear-probe", head_lr=0.02)], steps=1)
        run_data = prepared(plan)
        one = started(run_data, tmp_path)[0]
        one.record.write({"step": 1, "loss": 9.0})
        one.record.mark()
        one.best, one.best_score = one.trainable.fold(one.provenance), 0.1
        (warning,) = not_learning(one, run_data)
        assert warning.endswith(
            "try another --head-lr (a tenth or three times 0.02), more --steps, or another --method"
        )

    def test_training_lowers_the_loss_of_a_head_and_of_a_prompt(self, task, bert_folder, tmp_path):
        settings = TrainSettings(steps=100, eval_every=20, batch_size=16)
        prompts = [entry("linear-probe", head_lr=0.1), entry("prompt-tuning", lr=0.3, head_lr=0.1)]
        run = train(task, str(bert_folder), prompts=prompts, settings=settings, output=tmp_path / "run")
        for result in run.results:
            losses = [r["loss"] for r in read_record(tmp_path / "run" / result.prompt / "metrics.jsonl") if "loss" in r]
            assert sum(losses[-10:]) < 0.85 * sum(losses[:10])
        assert run.results[0].stored == 0
        assert run.results[0].head == 2 * 16 + 2

    def test_recomputing_activations_changes_no_loss(self, task, t5_folder, tmp_path):
        losses = []
        for on in (False, True):
            settings = TrainSettings(steps=4, eval_every=4, gradient_checkpointing=on)
            train(task, str(t5_folder), prompts=FOUR[:2], settings=settings, output=tmp_path / str(on))
            records = sorted((tmp_path / str(on)).glob("*/metrics.jsonl"))
            losses.append([row["loss"] for record in records for row in read_record(record) if "loss" in row])
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    def test_a_bfloat16_model_trains_a_float32_prompt(self, task, t5_folder, tmp_path):
        settings = TrainSettings(steps=4, eval_every=4)
        run = train(
            task, str(t5_folder), prompts=[entry(lr=0.1)], settings=settings, output=tmp_path / "run", dtype="bfloat16"
        )
        losses = [row["loss"] for row in read_record(next((tmp_path / "run").glob("*/metrics.jsonl"))) if "loss" in row]
        assert run.prompt().vectors.dtype == torch.float32
        assert all(map(math.isfinite, losses))
        # In bfloat16 a step of 0.1 on values below 1 would move in units of 2^-8; float32 keeps the small part.
        assert (run.prompt().vectors.bfloat16().float() != run.prompt().vectors).any()


class TestRefusals:
    def test_a_prompt_longer_than_the_model_allows(self, task, bert_folder, tmp_path):
        prompts = [entry(options={"prompt_length": 600})]
        with pytest.raises(BadInput, match="600 positions leaves 0 for text"):
            train(task, str(bert_folder), prompts=prompts, output=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_head_alone_on_a_model_that_answers_in_tokens(self, task, t5_folder, tmp_path):
        with pytest.raises(BadInput, match="give answers='linear-head' for an encoder, or choose"):
            train(task, str(t5_folder), prompts=[entry("linear-probe")], output=tmp_path / "run")

    def test_an_unknown_tracker(self, task, t5_folder, tmp_path):
        with pytest.raises(UnknownName, match="Did you mean 'tensorboard'"):
            train(task, str(t5_folder), log_with="tensorbord", output=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_bank_of_a_trained_run_answers_rows_of_different_prompts_as_each_alone(task, t5_folder, tmp_path):
    run = train(task, str(t5_folder), prompts=FOUR[:2], settings=TrainSettings(steps=2), output=tmp_path / "run")
    backbone = load_backbone(str(t5_folder))
    from softprompt.inference.rows import examples_for

    examples = examples_for(
        backbone, task, [{"text": "good film"}, {"text": "a bad and long story"}], 10, targets=False
    )
    prompts = [run.prompt(0), run.prompt(1)]
    labels = backbone.encode_answers(task.labels)
    mixed = examples.batch([0, 1], torch.tensor([0, 1]), 0)
    both = backbone.label_scores(PromptBatch.of(*prompts), mixed, labels)
    for i, prompt in enumerate(prompts):
        alone = backbone.label_scores(PromptBatch.of(prompt), examples.batch([i], 0, 0), labels)
        torch.testing.assert_close(both[i], alone[0], rtol=0, atol=1e-4)


def test_a_tracker_receives_the_recorded_losses(task, t5_folder, tmp_path):
    train(
        task,
        str(t5_folder),
        prompts=[entry()],
        settings=TrainSettings(steps=3),
        output=tmp_path / "run",
        log_with="tensorboard",
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next((tmp_path / "run").rglob("events.out.*")).parent
    events = EventAccumulator(str(folder)).Reload()
    name = "prompt-tuning-seed0"
    recorded = [row["loss"] for row in read_record(tmp_path / "run" / name / "metrics.jsonl") if "loss" in row]
    assert [event.value for event in events.Scalars(f"{name}/loss")] == pytest.approx(recorded)


def test_a_tracker_leaves_the_state_of_accelerate_to_the_program(task, t5_folder, tmp_path):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    options = {"prompts": [entry()], "settings": TrainSettings(steps=1), "log_with": "tensorboard"}
    train(task, str(t5_folder), output=tmp_path / "first", **options)
    assert not PartialState._shared_state
    assert not AcceleratorState._shared_state
    theirs = Accelerator(cpu=True, mixed_precision="bf16")
    train(task, str(t5_folder), output=tmp_path / "second", **options)
    assert theirs.mixed_precision == Accelerator().mixed_precision == "bf16"
    AcceleratorState._reset_state(reset_partial_state=True)
