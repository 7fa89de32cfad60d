"""The loop: a fleet equals its prompts alone, a resumed run one that never stopped, and faults stay where they are."""

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.data import load_rows, split_rows
from softprompt.errors import BadInput, NotTrainable, RunExists, UnknownName
from softprompt.inference.answers import answer
from softprompt.inference.evaluate import Report, evaluate, report
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.settings import ModelSpec, PromptSettings, Seeds, TrainSettings
from softprompt.training import Interrupted, Plan, read_plan, resume, train
from softprompt.training import _results as results_module
from softprompt.training import _train as train_module
from softprompt.training._advice import not_learning
from softprompt.training._built import build_prompts
from softprompt.training._loop import Loop
from softprompt.training._optimizer import PromptOptimizer, learning_rate_factor, warmup_steps
from softprompt.training._prepare import prepare, training_rows
from softprompt.training._records import Record, read_record
from softprompt.training._start import start_members

from kit import review_task, same_files, soft
from tiny import ALL


def entry(method="prompt-tuning", seed=0, **changes):
    return PromptSettings(method=method, seeds=Seeds.all(seed), **changes)


FOUR = (
    entry("prompt-tuning", 0, lr=0.1, options={"prompt_length": 4}),
    entry("ept-star", 1, lr=0.3),
    entry("residual", 2, lr=0.03, options={"bottleneck": 8, "prompt_length": 3}),
    entry("p-tuning", 0, lr=0.01, options={"prompt_length": 2}),
)


def loop_of(plan, run_data, folder, *, double=False):
    prompts = started(plan, run_data, folder)
    if double:
        for one in prompts:
            one.trainable.double()
    timing = Record(folder / "timing.jsonl")
    OPEN.append(timing)
    return Loop(run_data, prompts, plan.settings, prompts[0].optimizer.steps, timing)


def prepared(plan, backbone=None):
    splits = split_rows(plan.task, load_rows(plan.task))
    return prepare(plan, splits, backbone or load_backbone(plan.model))


OPEN = []


@pytest.fixture(autouse=True)
def records_are_closed():
    yield
    while OPEN:
        OPEN.pop().close()


def started(plan, run_data, folder):
    prompts = start_members(plan, run_data, build_prompts(plan, run_data), folder)
    OPEN.extend(one.record for one in prompts)
    return prompts


def run_quietly(loop):
    loop.run(save=lambda loop: None, is_stopped=lambda: False, watch=lambda loop, losses: None)
    for record in (loop.timing, *(one.record for one in loop.members)):
        record.mark()


def plan_of(task, model, prompts, **settings):
    return Plan(task=task, model=ModelSpec(str(model)), prompts=tuple(prompts), settings=TrainSettings(**settings))


@pytest.fixture(scope="session")
def t5_folder(tiny_t5, save_tiny, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "t5", *tiny_t5())


@pytest.fixture(scope="session")
def bert_folder(tiny_bert, save_tiny, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "bert", *tiny_bert(head=False))


@pytest.fixture
def task(tmp_path):
    return review_task(tmp_path / "data")


class TestFleet:
    @pytest.mark.parametrize("kind", ["t5", "bert"])
    def test_prompts_trained_together_equal_prompts_trained_alone(self, kind, task, t5_folder, bert_folder, tmp_path):
        """50 steps in float64: own seeds, methods, lengths, learning rates, heads."""
        folder = {"t5": t5_folder, "bert": bert_folder}[kind]
        backbone = load_backbone(str(folder), dtype="float64")
        plan = plan_of(task, folder, FOUR, steps=50, eval_every=50, batch_size=4)
        run_data = prepared(plan, backbone)
        together = loop_of(plan, run_data, tmp_path / "fleet", double=True)
        run_quietly(together)
        for number, settings in enumerate(FOUR):
            alone = loop_of(
                dataclasses.replace(plan, prompts=(settings,)), run_data, tmp_path / str(number), double=True
            )
            run_quietly(alone)
            for a, b in zip(
                together.members[number].trainable.parameters(), alone.members[0].trainable.parameters(), strict=True
            ):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

    def test_packed_passes_train_the_prompts_that_transformers_passes_do(self, task, t5_folder, tmp_path, exact_norms):
        """5 steps in float64; AdamW divides by sqrt(v), so that a gradient that is a little wrong is soon elsewhere."""
        plan, found = plan_of(task, t5_folder, FOUR, steps=5, eval_every=5, batch_size=4), []
        for engine in ("packed", "reference"):
            run_data = prepared(plan, load_backbone(str(t5_folder), dtype="float64", engine=engine))
            loop = loop_of(plan, run_data, tmp_path / engine, double=True)
            run_quietly(loop)
            found.append([values.detach().clone() for one in loop.members for values in one.trainable.parameters()])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)

    def test_each_step_has_the_gradients_of_the_prompt_alone_in_float32(self, task, t5_folder, tmp_path):
        plan = plan_of(task, t5_folder, FOUR, steps=3, batch_size=4)
        run_data = prepared(plan)
        for number, settings in enumerate(FOUR):
            alone = loop_of(dataclasses.replace(plan, prompts=(settings,)), run_data, tmp_path / str(number))
            fleet = loop_of(plan, run_data, tmp_path / f"fleet{number}")
            for loop in (alone, fleet):
                loop.step = 1
                loop._optimize()
            pairs = zip(
                fleet.members[number].trainable.parameters(), alone.members[0].trainable.parameters(), strict=True
            )
            for a, b in pairs:
                assert a.grad is not None
                assert b.grad is not None
                assert (a.grad - b.grad).norm() <= 1e-5 * b.grad.norm()

    def test_a_prompt_that_turns_nan_leaves_and_the_others_go_on_as_if_alone(self, task, t5_folder, tmp_path):
        backbone = load_backbone(str(t5_folder), dtype="float64")
        plan = plan_of(task, t5_folder, FOUR[:2], steps=6, eval_every=6, batch_size=4)
        run_data = prepared(plan, backbone)
        loop = loop_of(plan, run_data, tmp_path / "fleet", double=True)

        def poison(loop, losses):
            if loop.step == 3:
                with torch.no_grad():
                    loop.members[0].trainable.initial[0, 0] = math.nan

        loop.run(save=lambda loop: None, is_stopped=lambda: False, watch=poison)
        alone = loop_of(dataclasses.replace(plan, prompts=FOUR[1:2]), run_data, tmp_path / "alone", double=True)
        run_quietly(alone)
        assert loop.members[0].status.startswith("dropped at step 4")
        assert loop.members[1].status == "training"
        torch.testing.assert_close(
            loop.members[1].trainable.initial, alone.members[0].trainable.initial, rtol=0, atol=1e-12
        )

    def test_an_early_stop_of_one_prompt_does_not_stop_the_others(self, task, t5_folder, tmp_path):
        prompts = (entry(lr=1e-9, seed=0), entry(lr=0.3, seed=1))
        plan = plan_of(task, t5_folder, prompts, steps=12, eval_every=2, patience=2, batch_size=4)
        loop = loop_of(plan, prepared(plan), tmp_path / "run")
        scores = itertools.count()

        def evaluate_with_given_scores():
            number = next(scores)
            for one, value in zip(loop.members, (0.5, 0.1 * number), strict=True):
                if one.is_training:
                    report = dataclasses.replace(
                        loop.scores([one.trainable.fold(one.provenance)], loop.run_data.validation)[0]
                    )
                    report.metrics["score"] = value
                    one.judge(loop.step, one.trainable.fold(one.provenance), report, 2)

        loop._evaluate = evaluate_with_given_scores
        run_quietly(loop)
        assert loop.members[0].status == "stopped early at step 6"
        assert loop.members[1].status == "training"
        rows = [row["step"] for row in read_record(tmp_path / "run" / loop.members[0].name / "metrics.jsonl")]
        assert max(rows) == 6

    def test_of_equal_scores_the_one_of_the_smaller_label_loss_is_stored(self, task, t5_folder, tmp_path):
        plan = plan_of(task, t5_folder, [entry()], steps=4)
        member, again = (started(plan, prepared(plan), tmp_path / name)[0] for name in ("run", "again"))
        report = Report({"score": 0.5}, 4, 0, [0, 1, 0, 1], [0, 1, 1, 0])
        for step, loss in enumerate((0.6, 0.7, 0.4, None), 1):
            prompt = member.trainable.fold(member.provenance)
            member.judge(step, prompt, dataclasses.replace(report, label_loss=loss), None)
        assert (member.best_step, member.best_label_loss, member.stale) == (3, 0.4, 3)
        again.restore(member.tensors(), member.state())
        again.judge(5, member.trainable.fold(member.provenance), dataclasses.replace(report, label_loss=0.5), None)
        assert (again.best_step, again.best_label_loss) == (3, 0.4)
        again.judge(6, member.trainable.fold(member.provenance), dataclasses.replace(report, label_loss=0.3), None)
        assert again.best_step == 6
        words, waiting = (started(plan, prepared(plan), tmp_path / name)[0] for name in ("words", "waiting"))
        words.beginning = words.trainable.fold(words.provenance)
        words.judge_beginning(dataclasses.replace(report, label_loss=0.6))
        waiting.restore(words.tensors(), words.state())
        waiting.judge(2, words.trainable.fold(words.provenance), dataclasses.replace(report, label_loss=0.1), None)
        assert waiting.best_step == 0
        better = Report({"score": 0.75}, 4, 0, [0, 1, 0, 0], [0, 1, 1, 0], label_loss=0.9)
        again.judge(7, member.trainable.fold(member.provenance), better, None)
        assert (again.best_step, again.stale) == (7, 0)


class TestTrainScore:
    def test_it_is_the_score_of_the_stored_prompt_on_the_rows_that_it_was_trained_on(self, task, t5_folder, tmp_path):
        prompts = (entry(seed=1, lr=0.3), entry("ept-star", seed=2, lr=0.3))
        settings = TrainSettings(steps=6, eval_every=3, batch_size=4, shots=10, train_score=True)
        run = train(task, str(t5_folder), prompts=prompts, settings=settings, output=tmp_path / "run")
        plan = plan_of(task, t5_folder, prompts, shots=10)
        run_data = prepared(plan)
        for number, result in enumerate(run.results):
            rows = run_data.train.select(training_rows(run_data, plan.settings, prompts[number]))
            assert len(rows) == 10
            prompt = run.prompt(number)
            expected = report(task, rows, answer(run_data.backbone, PromptBatch.of(prompt), rows, task))
            assert result.metrics["train"] == {**expected.metrics, "invalid": expected.invalid}
            assert prompt.provenance.metrics == result.metrics

    def test_it_changes_nothing_else_and_is_off_by_default(self, task, t5_folder, tmp_path):
        settings = TrainSettings(steps=4, eval_every=2, batch_size=4)
        for name, asked in (("plain", False), ("scored", True)):
            asked = dataclasses.replace(settings, train_score=asked)
            train(task, str(t5_folder), prompts=FOUR[:1], settings=asked, output=tmp_path / name)
        plain, scored = (results_module.read_results(tmp_path / name)[0].metrics for name in ("plain", "scored"))
        assert set(plain) == {"validation", "test"}
        assert {split: scored[split] for split in plain} == plain
        a, b = (next((tmp_path / name).glob("*/metrics.jsonl")) for name in ("plain", "scored"))
        assert a.read_bytes() == b.read_bytes()

    def test_of_many_rows_500_are_drawn_by_the_seed_of_the_draw(self):
        rows = list(range(0, 4000, 2))
        found = results_module.own_rows(rows, 3)
        assert len(set(found)) == 500
        assert found == sorted(found) == results_module.own_rows(rows, 3) != results_module.own_rows(rows, 4)
        assert set(found) < set(rows)
        # Not the first ones: rows may be in the order of their classes.
        assert abs(sum(found) / 500 - 2000) < 200
        assert results_module.own_rows([5, 3, 1], 0) == [5, 3, 1]


class TestOptimizer:
    def test_learning_rate_factor_follows_its_formula(self):
        linear = [learning_rate_factor(step, 10, 4, "linear") for step in range(1, 11)]
        assert linear == pytest.approx([0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
        assert [learning_rate_factor(s, 3, 1, "constant") for s in (1, 2, 3)] == [1, 1, 1]

    @pytest.mark.parametrize(
        ("steps", "expected"), [(19, 0), (20, 1), (250, 12), (1000, 50), (9_999, 499), (40_000, 500)]
    )
    def test_warm_up_is_5_percent_of_the_steps_and_500_at_most_unless_given(self, steps, expected):
        assert warmup_steps(TrainSettings(), steps) == expected
        assert warmup_steps(TrainSettings(warmup=3), steps) == 3
        assert warmup_steps(TrainSettings(warmup=0), steps) == 0

    def test_an_optimizer_without_a_given_warm_up_rises_over_5_percent_of_its_steps(self):
        one = TrainablePrompt.build(PromptSettings(method="prompt-tuning"), uniform(), torch.randn(20, 8), None)
        optimizer, nothing = PromptOptimizer(one, 0.3, 5e-3, 40, TrainSettings()), torch.zeros(())
        assert [optimizer.step(step, nothing) for step in (1, 2, 3, 40)] == pytest.approx([0.15, 0.3, 0.3, 0.3 / 38])

    def test_a_step_equals_plain_adamw_with_clipping(self):
        torch.manual_seed(0)
        settings = PromptSettings(method="prompt-tuning")
        ours = TrainablePrompt.build(settings, uniform(), torch.randn(20, 8), (3, 8))
        twin = torch.nn.ParameterList([p.detach().clone() for p in ours.parameters()])
        peak, head_lr, steps = 0.3, 5e-3, 7
        optimizer = PromptOptimizer(ours, peak, head_lr, steps, TrainSettings(warmup=2, clip=0.5))
        plain = torch.optim.AdamW(
            [
                {"params": [twin[0]], "lr": peak, "weight_decay": 0.01},
                {"params": list(twin[1:]), "lr": head_lr, "weight_decay": 0.0},
            ]
        )
        for step in range(1, steps + 1):
            for a, b in zip(ours.parameters(), twin, strict=True):
                a.grad = torch.randn_like(a)
                b.grad = a.grad.clone()
            optimizer.step(step, optimizer.gradient_norm())
            torch.nn.utils.clip_grad_norm_(list(twin), 0.5)
            factor = step / 2 if step <= 2 else (steps - step + 1) / (steps - 2)
            for group, lr in zip(plain.param_groups, (peak, head_lr), strict=True):
                group["lr"] = lr * factor
            plain.step()
            for a, b in zip(ours.parameters(), twin, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)

    def test_accumulated_passes_equal_one_large_batch(self, task, t5_folder, tmp_path):
        prompts = (entry(lr=0.1),)
        backbone = load_backbone(str(t5_folder), dtype="float64")
        large = plan_of(task, t5_folder, prompts, steps=4, batch_size=8, bucket=1, eval_every=4)
        small = plan_of(task, t5_folder, prompts, steps=4, batch_size=4, bucket=1, eval_every=4, grad_accumulation=2)
        run_data = prepared(large, backbone)
        ends = []
        for name, plan in (("large", large), ("small", small)):
            loop = loop_of(plan, run_data, tmp_path / name, double=True)
            run_quietly(loop)
            ends.append(loop.members[0].trainable.get_parameter("initial").detach())
        torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-9)


class TestBackboneStaysFrozen:
    def test_no_weight_changes_and_none_has_a_gradient(self, task, t5_folder, tmp_path):
        backbone = load_backbone(str(t5_folder))
        before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
        train(task, backbone, prompts=FOUR[:2], settings=TrainSettings(steps=3), output=tmp_path / "run")
        assert all(torch.equal(before[name], value) for name, value in backbone.model.state_dict().items())
        assert all(p.grad is None for p in backbone.model.parameters())

    def test_a_backbone_that_passes_no_gradient_is_refused_on_the_first_step(self, task, t5_folder, tmp_path):
        backbone = load_backbone(str(t5_folder))
        layer = backbone.model.encoder.block[0]
        layer.register_forward_hook(lambda module, given, out: tuple(None if x is None else x.detach() for x in out))
        with pytest.raises(NotTrainable, match="quantised"):
            train(task, backbone, prompts=[entry()], settings=TrainSettings(steps=3), output=tmp_path / "run")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
    def test_a_quantised_layer_without_a_gradient_is_refused_though_residuals_carry_a_part_of_it(
        self, task, tiny_bert, tmp_path
    ):
        model, tokenizer = tiny_bert(head=False)
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        with pytest.raises(NotTrainable, match="gives no gradient to its input"):
            train(task, from_model(quantised, tokenizer), settings=TrainSettings(steps=1), output=tmp_path / "run")

    def test_options_that_this_model_would_ignore_are_refused_before_a_folder_is_made(
        self, task, tiny_gpt, tiny_bert, tmp_path
    ):
        backbone, folder = from_model(*tiny_gpt("llama"), name="tiny"), tmp_path / "run"
        with pytest.raises(BadInput, match="'tiny' has no dropout, so `backbone_dropout` changes nothing"):
            train(task, backbone, steps=1, backbone_dropout=True, output=folder)
        labels = dataclasses.replace(task, labels=("good", "good film"))
        with pytest.raises(BadInput, match="begin with the same token"):
            train(labels, backbone, steps=1, loss="tokens", normalize="first", output=folder)
        with pytest.raises(BadInput, match="`head_lr` is the rate of a linear head, and 'tiny' has none here"):
            train(task, backbone, steps=1, head_lr=0.1, output=folder)
        with pytest.raises(BadInput, match=r"normalize='mean' is about scores .* the text that is written answers"):
            train(task, backbone, steps=1, normalize="mean", loss="tokens", decode="generate", output=folder)
        with pytest.raises(BadInput, match=r"normalize='mean' is about scores .* a linear head answers"):
            train(task, from_model(*tiny_bert(head=False), name="tiny"), steps=1, normalize="mean", output=folder)
        assert not folder.exists()

    def test_lengths_of_which_one_would_cut_the_rows_of_another_are_refused(self, tiny_bert, tmp_path):
        model, tokenizer = tiny_bert(head=False)
        backbone, folder = from_model(model, tokenizer, answers="linear-head"), tmp_path / "run"
        positions = backbone.max_positions or 0
        rows = [{"text": "good " * (positions - 12), "label": "yes"}, {"text": "bad", "label": "no"}] * 20
        given = {"text_column": "text", "label_column": "label", "max_length": positions, "steps": 1}
        two = [entry(options={"prompt_length": n}) for n in (2, 30)]
        with pytest.raises(
            BadInput, match=rf"leave {positions - 2} and {positions - 30} tokens .* or train them apart"
        ):
            train(rows, backbone, prompts=two, output=folder, **given)
        assert not folder.exists()
        given["max_length"] = positions - 30
        train(rows, backbone, prompts=two, output=folder, frozen=False, **given)

    def test_dropout_of_the_frozen_model_is_on_only_while_training_and_only_if_asked(self, task, t5_folder, tmp_path):
        backbone = load_backbone(str(t5_folder))
        seen = []
        backbone.model.encoder.register_forward_pre_hook(
            lambda module, given: seen.append((module.training, torch.is_grad_enabled()))
        )
        train(task, backbone, prompts=[entry()], settings=TrainSettings(steps=2), output=tmp_path / "off")
        assert not any(training for training, _ in seen)
        seen.clear()
        settings = TrainSettings(steps=2, backbone_dropout=True)
        train(task, backbone, prompts=[entry()], settings=settings, output=tmp_path / "on")
        assert {(True, True), (False, False)} == set(seen)
        assert not backbone.model.training


@pytest.fixture(scope="module")
def whole(kept_task, t5_folder, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("kept") / "whole"
    TestResume().train(kept_task, t5_folder, folder)
    return folder


class TestResume:
    def test_a_backbone_that_was_loaded_before_is_recorded_as_it_is_and_loaded_so_again(
        self, task, t5_folder, tmp_path, monkeypatch
    ):
        """Else `resume` would load another model than the run began with."""
        backbone = load_backbone(t5_folder, device="cpu", dtype="bfloat16", engine="reference")
        backbone.revision = "abc"
        run = tmp_path / "run"
        train(task, backbone, settings=TrainSettings(steps=1), output=run)
        recorded = read_plan(run).model
        assert dataclasses.replace(recorded, device="cpu") == backbone.spec
        assert (recorded.dtype, recorded.revision, recorded.engine) == ("bfloat16", "abc", "reference")
        for result in run.glob("*/result.json"):
            result.unlink()
        loaded = []
        monkeypatch.setattr(train_module, "load_backbone", lambda spec: loaded.append(spec) or backbone)
        resume(run, device="cpu")
        assert loaded == [backbone.spec]

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [({"dtype": "float32"}, "dtype='bfloat16'"), ({"engine": "packed"}, "engine='reference'")],
    )
    def test_what_a_loaded_backbone_is_not_cannot_be_asked_of_it(self, task, t5_folder, tmp_path, wrong, words):
        backbone = load_backbone(ModelSpec(str(t5_folder), device="cpu", dtype="bfloat16", engine="reference"))
        with pytest.raises(BadInput, match=f"was loaded with {words}; give it to load_backbone"):
            train(task, backbone, steps=1, output=tmp_path / "run", **wrong)
        assert not (tmp_path / "run").exists()

    def test_a_spec_and_its_keywords_name_the_same_model_but_not_both_at_once(self, task, t5_folder, tmp_path):
        spec = ModelSpec(str(t5_folder), device="cpu", dtype="bfloat16")
        by_spec = train(task, spec, steps=1, output=tmp_path / "spec")
        by_keywords = train(task, str(t5_folder), device="cpu", dtype="bfloat16", steps=1, output=tmp_path / "keywords")
        assert same_files(
            by_spec.folder / "prompt-tuning-seed0" / "prompt", by_keywords.folder / "prompt-tuning-seed0" / "prompt"
        )
        with pytest.raises(BadInput, match="dtype belongs to the ModelSpec"):
            train(task, spec, dtype="float32", steps=1, output=tmp_path / "both")
        with pytest.raises(UnknownName, match="Did you mean 'quantize'"):
            load_backbone(t5_folder, quantise="int8")

    SETTINGS = TrainSettings(steps=12, eval_every=4, batch_size=4, backbone_dropout=True, clip=1.0)

    def train(self, task, model, folder, prompts=FOUR):
        return train(task, str(model), prompts=prompts, settings=self.SETTINGS, output=folder)

    @pytest.mark.parametrize("crash", [2, 4, 7, 11, 12] if ALL else [4, 11])
    def test_a_run_that_died_and_was_resumed_leaves_the_same_bytes(
        self, crash, kept_task, t5_folder, whole, tmp_path, monkeypatch
    ):
        """Death between checkpoints (2, 7, 11) and right after one (4, 12), without any chance to clean up."""
        optimize = Loop._optimize

        def dying(loop):
            losses = optimize(loop)
            if loop.step == crash:
                raise MemoryError("killed")
            return losses

        monkeypatch.setattr(Loop, "_optimize", dying)
        with pytest.raises(MemoryError):
            self.train(kept_task, t5_folder, tmp_path / "killed")
        monkeypatch.setattr(Loop, "_optimize", optimize)
        resumed = resume(tmp_path / "killed")
        assert same_files(whole, tmp_path / "killed", ignore=("timing.jsonl", "state.json", "manifest.json"))
        assert [r.status for r in resumed.results] == ["finished"] * 4

    def test_an_interrupted_run_says_how_to_go_on_and_does(self, kept_task, t5_folder, whole, tmp_path, monkeypatch):
        optimize = Loop._optimize

        def interrupted(loop):
            if loop.step == 6:
                os.kill(os.getpid(), signal.SIGINT)
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", interrupted)
        with pytest.raises(Interrupted, match=r"after step 6 of 12; go on with: softprompt train --resume"):
            self.train(kept_task, t5_folder, tmp_path / "stopped")
        assert (tmp_path / "stopped" / "checkpoints" / "step-000006" / "manifest.json").exists()
        monkeypatch.setattr(Loop, "_optimize", optimize)
        resume(tmp_path / "stopped")
        assert same_files(whole, tmp_path / "stopped", ignore=("timing.jsonl", "state.json", "manifest.json"))

    def test_a_killed_process_is_resumed_to_the_same_bytes(self, kept_task, t5_folder, whole, tmp_path):
        """SIGKILL from outside, at whatever point the process has reached."""
        program = (
            "import sys, json; sys.path.insert(0, sys.argv[4]);"
            "from softprompt.training import train; from test_training import FOUR, TestResume;"
            "from softprompt.tasks import Task;"
            "task = Task.from_json(json.loads(sys.argv[1]));"
            "train(task, sys.argv[2], prompts=FOUR, settings=TestResume.SETTINGS, output=sys.argv[3])"
        )
        arguments = [
            json.dumps(kept_task.to_json()),
            str(t5_folder),
            str(tmp_path / "killed"),
            str(Path(__file__).parent),
        ]
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        record = tmp_path / "killed" / "checkpoints"
        while process.poll() is None and not record.exists():
            time.sleep(0.01)
        process.kill()
        process.wait()
        resume(tmp_path / "killed")
        assert same_files(whole, tmp_path / "killed", ignore=("timing.jsonl", "state.json", "manifest.json"))

    def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
        self, kept_task, t5_folder, whole, tmp_path, monkeypatch
    ):
        finish = train_module.finish_member
        monkeypatch.setattr(train_module, "finish_member", lambda *a: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            self.train(kept_task, t5_folder, tmp_path / "damaged")
        monkeypatch.setattr(train_module, "finish_member", finish)
        newest = tmp_path / "damaged" / "checkpoints" / "step-000012" / "state.safetensors"
        content = bytearray(newest.read_bytes())
        content[-1] ^= 1
        newest.write_bytes(content)
        resume(tmp_path / "damaged")
        assert same_files(whole, tmp_path / "damaged", ignore=("timing.jsonl", "state.json", "manifest.json"))

    def test_resuming_a_finished_run_returns_its_results(self, task, t5_folder, tmp_path):
        first = self.train(task, t5_folder, tmp_path / "run", FOUR[:1])
        again = resume(tmp_path / "run")
        assert again.results == first.results

    def test_other_rows_than_at_the_start_are_refused(self, task, t5_folder, tmp_path, monkeypatch):
        monkeypatch.setattr(train_module, "finish_member", lambda *a: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            self.train(task, t5_folder, tmp_path / "run", FOUR[:1])
        file = Path(task.source.files["train"])
        file.write_text(file.read_text().replace("good", "fine", 1))
        with pytest.raises(BadInput, match="not those"):
            resume(tmp_path / "run")

    def test_a_second_process_in_the_same_folder_is_refused(self, task, t5_folder, tmp_path, monkeypatch):
        optimize, refused = Loop._optimize, []

        def meanwhile(loop):
            if loop.step == 2:
                with pytest.raises(RunExists, match="another process") as error:
                    resume(tmp_path / "run")
                refused.append(error)
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", meanwhile)
        self.train(task, t5_folder, tmp_path / "run", FOUR[:1])
        assert len(refused) == 1

    def test_a_folder_that_holds_a_run_is_refused_and_left_alone(self, task, t5_folder, tmp_path):
        self.train(task, t5_folder, tmp_path / "run", FOUR[:1])
        before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
        with pytest.raises(RunExists, match="`resume`"):
            self.train(task, t5_folder, tmp_path / "run", FOUR[:1])
        assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


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

    @pytest.mark.parametrize(
        ("losses", "score", "reason"),
        [
            ([1.0, 0.9, 0.5, 0.2], 0.9, None),
            ([1.0, 0.9, 0.5, 0.2], 1 / 3, "most frequent class"),
            ([9.0, 0.9, 0.7, 0.69], 0.9, None),
            ([9.0, 0.9, 0.7, 0.69], 0.6, "its last steps is 0.6900 nats, that of a guess among 2 labels is 0.6931"),
        ],
    )
    def test_each_sign_of_not_learning_is_seen_alone(self, losses, score, reason, task, t5_folder, tmp_path):
        plan = plan_of(task, t5_folder, [entry()], steps=4)
        one = started(plan, prepared(plan), tmp_path)[0]
        for step, loss in enumerate(losses, 1):
            one.record.write({"step": step, "loss": loss})
        one.record.mark()
        one.best, one.best_score = one.trainable.fold(one.provenance), score
        # Of four rows two are of class 1: always answering it has accuracy 1/2, macro-F1 1/3; the first is the score.
        found = not_learning(one, dataclasses.replace(task, headline=("macro-f1",)), [1, 1, 0, 0])
        assert [reason in line for line in found] == ([True] if reason else [])

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


class TestFewShot:
    def test_each_prompt_sees_its_own_seeded_draw(self, task, t5_folder, tmp_path):
        prompts = (entry(seed=0), entry(seed=1), PromptSettings(seeds=Seeds(initialization=2, draw=1)))
        plan = plan_of(task, t5_folder, prompts, steps=1, shots=6)
        run_data = prepared(plan)
        rows = [sorted(one.rows) for one in started(plan, run_data, tmp_path)]
        assert all(len(r) == 6 for r in rows)
        assert rows[0] != rows[1]
        assert rows[1] == rows[2]
        assert [run_data.train.gold[i] for i in rows[0]].count(1) == 3


class TestSeeds:
    @pytest.mark.parametrize("purpose", ["initialization", "order", "draw"])
    def test_a_seed_moves_its_own_purpose_and_no_other(self, purpose, task, t5_folder, tmp_path):
        seeds = (Seeds(), dataclasses.replace(Seeds(), **{purpose: 1}))
        plan = plan_of(task, t5_folder, [PromptSettings(seeds=s) for s in seeds], steps=1, shots=20)
        plain, moved = started(plan, prepared(plan), tmp_path)
        same = {
            "initialization": torch.equal(plain.trainable.vectors(), moved.trainable.vectors()),
            "draw": plain.rows == moved.rows,
        }
        if purpose != "draw":  # another draw has other rows to order
            same["order"] = [next(plain.batches) for _ in range(2)] == [next(moved.batches) for _ in range(2)]
        assert {name for name, equal in same.items() if not equal} == {purpose}

    def test_the_noise_seed_moves_the_dropout_of_the_frozen_model(self, task, t5_folder, tmp_path):
        losses = []
        for noise in (0, 0, 1):
            settings = TrainSettings(steps=2, warmup=0, backbone_dropout=True)
            folder = tmp_path / str(len(losses))
            prompts = [PromptSettings(method="prompt-tuning", seeds=Seeds(noise=noise))]
            train(task, str(t5_folder), prompts=prompts, settings=settings, output=folder)
            record = read_record(next(folder.glob("*/metrics.jsonl")))
            losses.append([row["loss"] for row in record if "loss" in row])
        assert losses[0] == losses[1]
        assert losses[0] != losses[2]

    def test_a_prompt_in_a_fleet_has_the_dropout_of_its_own_seed(self, task, t5_folder, tmp_path):
        settings = TrainSettings(steps=2, warmup=0, backbone_dropout=True)
        two = [entry(), entry(seed=1)]
        fleet = train(task, str(t5_folder), prompts=two, settings=settings, output=tmp_path / "fleet", frozen=False)
        alone = train(task, str(t5_folder), prompts=two[1:], settings=settings, output=tmp_path / "one", frozen=False)
        assert torch.equal(fleet.prompt(1).vectors, alone.prompt(0).vectors)

    def test_each_step_draws_noise_of_its_own_and_the_same_when_repeated(self, task, t5_folder, tmp_path):
        plan = plan_of(task, t5_folder, [entry(lr=1e-12)], steps=9, backbone_dropout=True)
        loop = loop_of(plan, prepared(plan), tmp_path)
        batch = loop._batch(list(loop.members))
        loop._batch = lambda members: batch
        losses = []
        for step in (1, 2, 1):
            loop.step = step
            losses += loop._optimize().values()
        assert losses[0] == pytest.approx(losses[2], rel=1e-6)
        assert losses[0] != pytest.approx(losses[1], rel=1e-3)

    def test_answers_are_without_dropout_whatever_came_before(self, task, t5_folder, tmp_path):
        plan = plan_of(task, t5_folder, [entry()], steps=9, backbone_dropout=True)
        loop = loop_of(plan, prepared(plan), tmp_path)
        prompts = [member.trainable.fold(member.provenance) for member in loop.members]
        found = []
        for seed in (0, 1):
            loop.run_data.backbone.dropout(True)
            torch.manual_seed(seed)
            found.append(loop.answers(prompts, loop.run_data.validation)[0].scores)
        assert torch.equal(*found)

    @pytest.mark.parametrize("before", [False, True])
    def test_the_model_recomputes_afterwards_what_it_did_before(self, before, task, t5_folder, tmp_path):
        backbone = load_backbone(str(t5_folder))
        backbone.gradient_checkpointing(before)
        seen, optimize = [], Loop._optimize

        def watched(loop):
            seen.append(loop.run_data.backbone.recomputes)
            return optimize(loop)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loop, "_optimize", watched)
            for on in (True, False):
                train(task, backbone, steps=1, gradient_checkpointing=on, output=tmp_path / str(on))
        assert seen == [True, before]
        assert backbone.recomputes == before


class TestInitialization:
    def test_a_prompt_starts_from_another_trained_prompt(self, task, t5_folder, tmp_path):
        settings = TrainSettings(steps=2)
        source = train(task, str(t5_folder), prompts=[entry()], settings=settings, output=tmp_path / "source").prompt()
        start = entry(init=f"prompt:{tmp_path / 'source'}", units="raw")
        plan = plan_of(task, t5_folder, (start,), steps=1)
        built = soft(build_prompts(plan, prepared(plan))[0])
        assert torch.equal(built.initial.detach(), source.vectors)

    def test_label_words_start_from_the_mean_of_their_token_vectors(self, task, t5_folder, tmp_path):
        plan = plan_of(
            task, t5_folder, (entry(init="label-words", units="raw", options={"prompt_length": 2}),), steps=1
        )
        run_data = prepared(plan)
        built = soft(build_prompts(plan, run_data)[0]).initial
        table, tokenizer = run_data.backbone.embeddings.weight, run_data.backbone.tokenizer
        for row, word in zip(built, task.labels, strict=True):
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            torch.testing.assert_close(row, table[ids].mean(0))


class TestRefusals:
    def test_a_prompt_longer_than_the_model_allows(self, task, bert_folder, tmp_path):
        prompts = [entry(options={"prompt_length": 600})]
        with pytest.raises(BadInput, match="600 positions leaves 0 for text"):
            train(task, str(bert_folder), prompts=prompts, output=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_head_alone_on_a_model_that_answers_in_tokens(self, task, t5_folder, tmp_path):
        with pytest.raises(BadInput, match="linear head"):
            train(task, str(t5_folder), prompts=[entry("linear-probe")], output=tmp_path / "run")

    def test_an_unknown_tracker(self, task, t5_folder, tmp_path):
        with pytest.raises(UnknownName, match="Did you mean 'tensorboard'"):
            train(task, str(t5_folder), log_with="tensorbord", output=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_bank_of_a_trained_run_answers_rows_of_different_prompts_as_each_alone(task, t5_folder, tmp_path):
    run = train(task, str(t5_folder), prompts=FOUR[:2], settings=TrainSettings(steps=2), output=tmp_path / "run")
    backbone = load_backbone(str(t5_folder))
    from softprompt.inference.evaluate import examples_for

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
