"""Prompts that are trained together equal prompts that are trained alone."""

import dataclasses
import itertools
import math

import pytest
import torch
from softprompt.backbones import load_backbone
from softprompt.inference.report import Report
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.training import train
from softprompt.training._loop import Loop
from softprompt.training._records import read_record

from training_kit import FOUR, entry, loop_of, plan_of, prepared, run_quietly, started


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
                    folded = one.trainable.fold(one.provenance)
                    report = loop.scorer.scores([folded], loop.run_data.validation)[0]
                    assert report is not None
                    report.metrics["score"] = value
                    one.judge(loop.step, folded, report, 2)

        loop._evaluate = evaluate_with_given_scores
        run_quietly(loop)
        assert loop.members[0].status == "stopped early at step 6"
        assert loop.members[1].status == "training"
        rows = [row["step"] for row in read_record(tmp_path / "run" / loop.members[0].name / "metrics.jsonl")]
        assert max(rows) == 6

    def test_of_equal_scores_the_one_of_the_smaller_label_loss_is_stored(self, task, t5_folder, tmp_path):
        plan = plan_of(task, t5_folder, [entry()], steps=4)
        member, again = (started(prepared(plan), tmp_path / name)[0] for name in ("run", "again"))
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
        words, waiting = (started(prepared(plan), tmp_path / name)[0] for name in ("words", "waiting"))
        words.beginning = words.trainable.fold(words.provenance)
        words.judge_beginning(dataclasses.replace(report, label_loss=0.6))
        waiting.restore(words.tensors(), words.state())
        waiting.judge(2, words.trainable.fold(words.provenance), dataclasses.replace(report, label_loss=0.1), None)
        assert waiting.best_step == 0
        better = Report({"score": 0.75}, 4, 0, [0, 1, 0, 0], [0, 1, 1, 0], label_loss=0.9)
        again.judge(7, member.trainable.fold(member.provenance), better, None)
        assert (again.best_step, again.stale) == (7, 0)


class TestFewShot:
    def test_each_prompt_sees_its_own_seeded_draw(self, task, t5_folder, tmp_path):
        prompts = (entry(seed=0), entry(seed=1), PromptSettings(seeds=Seeds(initialization=2, draw=1)))
        plan = plan_of(task, t5_folder, prompts, steps=1, shots=6)
        run_data = prepared(plan)
        rows = [sorted(one.rows) for one in started(run_data, tmp_path)]
        assert all(len(r) == 6 for r in rows)
        assert rows[0] != rows[1]
        assert rows[1] == rows[2]
        assert [run_data.train.gold[i] for i in rows[0]].count(1) == 3


class TestSeeds:
    @pytest.mark.parametrize("purpose", ["initialization", "order", "draw"])
    def test_a_seed_moves_its_own_purpose_and_no_other(self, purpose, task, t5_folder, tmp_path):
        seeds = (Seeds(), dataclasses.replace(Seeds(), **{purpose: 1}))
        plan = plan_of(task, t5_folder, [PromptSettings(seeds=s) for s in seeds], steps=1, shots=20)
        plain, moved = started(prepared(plan), tmp_path)
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
        fleet = train(task, str(t5_folder), prompts=two, settings=settings, output=tmp_path / "fleet")
        alone = train(task, str(t5_folder), prompts=two[1:], settings=settings, output=tmp_path / "one")
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
            found.append(loop.scorer.answers(prompts, loop.run_data.validation)[0].scores)
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
