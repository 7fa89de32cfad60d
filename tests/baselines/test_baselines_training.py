"""Weights trained in place of a prompt on the common loop, beside plain references of their formulas."""

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.baselines import BASELINES
from softprompt.inference.evaluate import evaluate
from softprompt.inference.predict import predict
from softprompt.prompts.prompt import SoftPrompt
from softprompt.store import latest_checkpoint
from softprompt.training import resume, train
from softprompt.training._loop import Loop
from softprompt.training._records import read_record

from baselines_kit import NO_BIASES, SETTINGS, TEXT, digest
from baselines_plain import PLAIN, plain_losses
from kit import same_files

CASES = [
    ("t5", "full"), ("gpt2", "full"), ("bert", "full"), ("gpt2", "bitfit"), ("bert", "bitfit"),
    ("t5", "bitfit"), ("llama", "bitfit"),
    ("t5", "lora"), ("gpt2", "lora"), ("llama", "lora"), ("bert", "lora"), ("t5", "ia3"), ("gpt2", "ia3"),
    ("t5", "adapter"), ("gpt2", "adapter"), ("bert", "adapter"), ("llama", "adapter-drop"), ("t5", "prefix-tuning"),
    ("bart", "prefix-tuning"), ("gpt2", "prefix-tuning"), ("llama", "prefix-tuning"), ("gpt2", "cartridge"),
    ("t5", "dept"), ("gpt2", "dept"), ("t5", "attempt"), ("gpt2", "attempt"), ("bert", "attempt"),
]  # fmt: skip


# What stands beside the model, so that its modules and weights stay where they are also during a pass.
BESIDE = ("prefix-tuning", "cartridge", "dept", "attempt", "mpt")


def in_order(weights):
    """Weights by their shapes and sums: PEFT names its own otherwise."""
    return sorted(weights, key=lambda values: (values.shape, values.sum().item()))


class TestTraining:
    def test_every_method_has_a_plain_reference_and_a_case(self):
        assert {*PLAIN} == {method for _, method in CASES} == {*BASELINES} - {"mpt"}

    @pytest.mark.parametrize(("family", "method"), CASES)
    def test_it_equals_a_plain_loop_over_a_model_that_is_trained_in_place(
        self, family, method, backbone_of, more_of, task, tmp_path
    ):
        backbone, more = backbone_of(family), more_of(method, family)
        if method == "cartridge":
            more["options"] = {"text": TEXT}
        if method == "prefix-tuning":
            more["options"] = {"begins": "random"}
        if method == "bitfit" and family in NO_BIASES:
            more["options"] = {"add_missing": True}
        run = train(task, backbone, method=method, lr=0.02, seeds=3, output=tmp_path / "run", **more, **SETTINGS)
        sources = [SoftPrompt.load(path).vectors for path in more.get("sources", ())]
        losses, weights, head = plain_losses(backbone_of(family), task, method, 3, 0.02, sources)
        record = read_record(tmp_path / "run" / f"{method}-seed3" / "metrics.jsonl")
        assert [row["loss"] for row in record if "loss" in row] == pytest.approx(losses, rel=1e-4)
        assert run.results[0].trainable == sum(values.numel() for values in weights.values())
        # After the last step, also where an earlier step scored as well.
        checkpoint = latest_checkpoint(tmp_path / "run" / "checkpoints")
        assert checkpoint is not None
        kept = [checkpoint.tensors[f"0/parameters.swap.trained.{number}"] for number in range(len(weights))]
        for ours, theirs in zip(in_order(kept), in_order(weights.values()), strict=True):
            # ATTEMPT's attention moves by a tenth in each step.
            atol = 1e-4 if method == "attempt" else 2e-5
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=atol)
        if head is not None:
            kept = checkpoint.tensors["0/parameters.head.weight"]
            torch.testing.assert_close(kept, head.weight.detach(), rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("method", BASELINES)
    def test_the_model_that_was_given_is_never_changed(self, method, backbone_of, more_of, task, tmp_path, monkeypatch):
        backbone = backbone_of("gpt2")
        settings = {"method": method, "lr": 0.05, **more_of(method, "gpt2"), **SETTINGS}
        before = digest(backbone.model)
        run = train(task, backbone, output=tmp_path / "run", **settings)
        assert digest(backbone.model) == before
        evaluate(run.tuned(), model=backbone)
        assert digest(backbone.model) == before
        logits, calls = backbone.logits, []

        def failing(*arguments):
            calls.append(digest(backbone.model))
            if len(calls) == 12:
                raise ArithmeticError("in the middle of a pass")
            return logits(*arguments)

        monkeypatch.setattr(backbone, "logits", failing)
        with pytest.raises(ArithmeticError):
            train(task, backbone, output=tmp_path / "crash", **{**settings, "steps": 60})
        # Within the passes it was another one, or it had something beside it.
        assert len({*calls, before}) > 3 or method in BESIDE
        assert digest(backbone.model) == before
        assert backbone.prefix is None
        assert backbone.on_rows is None

    def test_prompts_beside_it_are_what_they_are_alone(self, backbone_of, task, tmp_path):
        backbone = backbone_of("t5")
        train(task, backbone, method="ept", output=tmp_path / "alone", **SETTINGS)
        train(task, backbone, method=["full", "ept", "lora"], output=tmp_path / "together", **SETTINGS)
        for file in ("metrics.jsonl", "prompt/prompt.safetensors", "result.json"):
            alone, together = (tmp_path / run / "ept-seed0" / file for run in ("alone", "together"))
            assert alone.read_bytes() == together.read_bytes()

    def test_a_packed_model_trains_by_the_reference_passes_and_stays_packed(self, tiny_t5, task, tmp_path, caplog):
        packed, plain = (from_model(*tiny_t5(), name="t5", engine=engine) for engine in ("packed", "reference"))
        runs = [
            train(task, backbone, method="full", lr=0.05, output=tmp_path / backbone.engine, **SETTINGS)
            for backbone in (packed, plain)
        ]
        assert packed.engine == "packed"
        assert sum("not of the packed engine" in message for message in caplog.messages) == 1
        records = [read_record(run.folder / "full-seed0" / "metrics.jsonl") for run in runs]
        losses = [[row["loss"] for row in record if "loss" in row] for record in records]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert runs[0].results[0].metrics == runs[1].results[0].metrics

    @pytest.mark.parametrize(
        ("family", "method"),
        [
            ("t5", "full"),
            ("bert", "full"),
            ("gpt2", "bitfit"),
            ("t5", "lora"),
            ("gpt2", "adapter"),
            ("gpt2", "ia3"),
            ("llama", "adapter-drop"),
            ("t5", "prefix-tuning"),
            ("bart", "prefix-tuning"),
            ("gpt2", "cartridge"),
            ("t5", "dept"),
            ("gpt2", "attempt"),
        ],
    )
    def test_a_run_that_died_is_resumed_to_the_same_bytes(
        self, family, method, backbone_of, more_of, task, tmp_path, monkeypatch
    ):
        options = {"options": {"dropout": 0.3}} if method == "lora" else {}
        settings = {"method": method, "lr": 0.03, **more_of(method, family), **options, **SETTINGS}
        train(task, backbone_of(family), output=tmp_path / "whole", **settings)
        optimize = Loop._optimize

        def dying(loop):
            losses = optimize(loop)
            if loop.step == 5:
                raise MemoryError("killed")
            return losses

        monkeypatch.setattr(Loop, "_optimize", dying)
        with pytest.raises(MemoryError):
            train(task, backbone_of(family), output=tmp_path / "killed", **settings)
        monkeypatch.setattr(Loop, "_optimize", optimize)
        resume(tmp_path / "killed", model=backbone_of(family))
        ignored = ("timing.jsonl", "state.json", "manifest.json")
        assert same_files(tmp_path / "whole", tmp_path / "killed", ignore=ignored)

    def test_dropout_of_a_lora_is_drawn_by_the_noise_seed_during_training_only(self, backbone_of, task, tmp_path):
        backbone, results = backbone_of("t5"), []
        for number, dropout in enumerate((0.0, 0.5, 0.5)):
            options = {"dropout": dropout, "r": 2}
            run = train(
                task, backbone, method="lora", lr=0.05, options=options, output=tmp_path / str(number), **SETTINGS
            )
            results.append(run.tuned())
        names = sorted(results[0].weights)
        same = [torch.equal(results[1].weights[name], results[2].weights[name]) for name in names]
        other = [torch.equal(results[0].weights[name], results[1].weights[name]) for name in names]
        assert all(same)
        assert not all(other)
        assert predict(results[1], ["good film"], model=backbone) == predict(results[1], ["good film"], model=backbone)

    def test_a_loss_that_is_not_finite_drops_it_and_leaves_the_others(self, backbone_of, task, tmp_path):
        run = train(
            task,
            backbone_of("t5"),
            method=["full", "ept"],
            lr=1e30,
            output=tmp_path / "run",
            **{**SETTINGS, "clip": None},
        )
        assert run.results[0].status.startswith("dropped at step")
