"""Steps, optimisers and the frozen backbone."""

import dataclasses

import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.errors import BadInput, NotTrainable
from softprompt.prompts.contract import ParameterGroup
from softprompt.prompts.initializers import uniform
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.training import train
from softprompt.training._built import build_prompts
from softprompt.training._optimizer import PromptOptimizer, learning_rate_factor, warmup_steps
from softprompt.training._records import read_record

from kit import soft
from training_kit import FOUR, entry, loop_of, plan_of, prepared, run_quietly


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

    @pytest.mark.parametrize("size", [1e-9, 1.0])
    def test_a_step_in_units_is_that_of_plain_adamw_with_clipping_on_what_is_measured_in_them(self, size, monkeypatch):
        """Also where gradients are as small as AdamW's eps."""
        settings = PromptSettings(method="prompt-tuning")
        ours = TrainablePrompt.build(settings, uniform(), torch.randn(20, 8), (3, 8)).double()
        units = [30.0, 1.0, 0.2]
        groups = [ParameterGroup([p], "lr", True, unit) for p, unit in zip(ours.parameters(), units, strict=True)]
        monkeypatch.setattr(TrainablePrompt, "groups", lambda _: groups)
        plain = [torch.nn.Parameter(p.detach() / unit) for p, unit in zip(ours.parameters(), units, strict=True)]
        clip, constant = 1.5 * size, TrainSettings(warmup=0, schedule="constant", weight_decay=0.1, clip=1.5 * size)
        optimizer = PromptOptimizer(ours, 0.3, 0.3, 5, constant)
        adamw = torch.optim.AdamW(plain, lr=0.3, weight_decay=0.1)
        for step in range(1, 6):
            for p, x, unit in zip(ours.parameters(), plain, units, strict=True):
                gradient = size * torch.randn_like(x)
                x.grad, p.grad = gradient, gradient / unit
            found = optimizer.gradient_norm()
            optimizer.step(step, found)
            torch.testing.assert_close(found, torch.nn.utils.clip_grad_norm_(plain, clip), rtol=1e-12, atol=0)
            adamw.step()
            for p, x, unit in zip(ours.parameters(), plain, units, strict=True):
                torch.testing.assert_close(p, unit * x, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("regularizer", ["", "adv-emb:alpha=0.5"])
    @pytest.mark.parametrize(("rows", "batch_size"), [(None, 4), (12, 8), (7, 4)])
    def test_accumulated_passes_equal_one_large_batch(self, rows, batch_size, regularizer, task, t5_folder, tmp_path):
        """Also where an epoch ends with a smaller batch: 12 rows are 8 and 4."""
        prompts = (entry(lr=0.1, regularizer=regularizer),)
        backbone = load_backbone(str(t5_folder), dtype="float64")
        common = {"steps": 4, "bucket": 1, "eval_every": 4, "shots": rows}
        large = plan_of(task, t5_folder, prompts, batch_size=rows or 2 * batch_size, **common)
        small = plan_of(task, t5_folder, prompts, batch_size=batch_size, grad_accumulation=2, **common)
        run_data = prepared(large, backbone)
        ends, records = [], []
        for name, plan in (("large", large), ("small", small)):
            loop = loop_of(plan, run_data, tmp_path / name, double=True)
            run_quietly(loop)
            ends.append(loop.members[0].trainable.get_parameter("initial").detach())
            records.append([row for row in read_record(loop.members[0].record.path) if "loss" in row])
        torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-9)
        for one, other in zip(*records, strict=True):
            assert one == pytest.approx(other, abs=1e-5)

    def test_tokens_per_batch_bounds_what_passes_at_a_time_and_nothing_else(
        self, task, t5_folder, tmp_path, monkeypatch
    ):
        prompts, most = (entry(lr=0.1, options={"prompt_length": 4}),), 40
        backbone, sizes, records = load_backbone(str(t5_folder), dtype="float64"), [], []
        logits = backbone.logits

        def seen(prompt_batch, batch):
            sizes[-1].append((len(batch.ids), int(batch.mask.sum(1).max()) + 4))
            return logits(prompt_batch, batch)

        monkeypatch.setattr(backbone, "logits", seen)
        for bound in (None, most):
            plan = plan_of(task, t5_folder, prompts, epochs=2, shots=12, batch_size=8, tokens_per_batch=bound)
            sizes.append([])
            loop = loop_of(plan, prepared(plan, backbone), tmp_path / str(bound), double=True)
            # What was passed to measure the memory.
            sizes[-1].clear()
            run_quietly(loop)
            records.append([row for row in read_record(loop.members[0].record.path) if "loss" in row])
        assert [len(record) for record in records] == [3, 3]
        for one, other in zip(*records, strict=True):
            assert one == pytest.approx(other, rel=1e-5)
        whole, parts = sizes
        assert sum(rows for rows, _ in parts) == sum(rows for rows, _ in whole)
        assert max(rows * longest for rows, longest in whole) > most
        assert all(rows == 1 or rows * longest <= most for rows, longest in parts)


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
        train(rows, backbone, prompts=two, output=folder, with_frozen=False, **given)

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


class TestInitialization:
    def test_a_prompt_starts_from_another_trained_prompt(self, task, t5_folder, tmp_path):
        settings = TrainSettings(steps=2)
        source = train(task, str(t5_folder), prompts=[entry()], settings=settings, output=tmp_path / "source").prompt()
        start = entry(init=f"prompt:{tmp_path / 'source'}", units="raw")
        plan = plan_of(task, t5_folder, (start,), steps=1)
        built = soft(build_prompts(prepared(plan))[0])
        assert torch.equal(built.initial.detach(), source.vectors)

    def test_label_words_start_from_the_mean_of_their_token_vectors(self, task, t5_folder, tmp_path):
        plan = plan_of(
            task, t5_folder, (entry(init="label-words", units="raw", options={"prompt_length": 2}),), steps=1
        )
        run_data = prepared(plan)
        built = soft(build_prompts(run_data)[0]).initial
        table, tokenizer = run_data.backbone.embeddings.weight, run_data.backbone.tokenizer
        for row, word in zip(built, task.labels, strict=True):
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            torch.testing.assert_close(row, table[ids].mean(0))
