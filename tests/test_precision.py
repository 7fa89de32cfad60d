"""What rounded weights cost a prompt's gradient: bfloat16 between products, int8, and the warning of a run."""

import copy
import re
from statistics import median

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.backbones._precision import exact_products, wide_between_products
from softprompt.backbones.fast import int8
from softprompt.losses import task_losses
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.training import train

from kit import review_task
from tiny import DECODERS


def rows():
    ids = torch.tensor([[5, 9, 7, 12], [8, 6, 0, 0]])
    return TextBatch(ids, ids > 0, torch.zeros(2, dtype=torch.long), torch.tensor([[4, 3], [10, -100]]))


def gradient(backbone, seed=1):
    """Of a prompt of three vectors, and the logits."""
    generator = torch.Generator().manual_seed(seed)
    vectors = (torch.randn(3, backbone.embedding_size, generator=generator) / 2).requires_grad_()
    batch = rows()
    logits = backbone.logits(PromptBatch.stack([vectors]), batch)
    assert batch.targets is not None
    task_losses(logits, batch.targets).sum().backward()
    assert vectors.grad is not None
    return vectors.grad, logits.detach()


def error(found, right):
    return ((found - right).norm() / right.norm()).item()


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("rows") / "data")


class TestBfloat16:
    @pytest.mark.parametrize("family", DECODERS)
    def test_a_decoder_rounds_only_what_its_matrices_multiply(self, family, tiny_gpt):
        model, tokenizer = tiny_gpt(family, dtype=torch.bfloat16)
        exact = from_model(copy.deepcopy(model).float(), tokenizer, name="exact")
        plain = from_model(copy.deepcopy(model), tokenizer, name="plain")
        for module in plain.model.modules():
            module.__dict__.pop("forward", None)
            module._forward_hooks.clear()
        plain.model.to(torch.bfloat16)
        mixed = from_model(model, tokenizer, name="mixed")
        # Single prompts differ much: which way a tiny model rounds is chance.
        rounded, found = (
            median(error(gradient(backbone, seed)[0], gradient(exact, seed)[0]) for seed in range(12))
            for backbone in (plain, mixed)
        )
        # By how much is a matter of the family, and of how the processor multiplies in bfloat16.
        assert found < 0.95 * rounded
        assert gradient(mixed)[1].dtype == torch.float32

    def test_its_matrices_stay_as_they_are_also_where_it_is_taken_twice(self, tiny_gpt):
        model, tokenizer = tiny_gpt("llama", dtype=torch.bfloat16)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        first = gradient(from_model(model, tokenizer, name="llama"))
        second = gradient(from_model(model, tokenizer, name="llama"))
        assert torch.equal(first[0], second[0])
        for name, value in model.state_dict().items():
            assert torch.equal(before[name].float(), value.float())
            assert (value.dtype == torch.bfloat16) == ("norm" not in name)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_other_precisions_are_left_alone(self, dtype, tiny_gpt):
        model, _ = tiny_gpt("llama", dtype=dtype)
        wide_between_products(model)
        assert not any("forward" in module.__dict__ or module._forward_hooks for module in model.modules())


class TestExactProducts:
    def test_of_int8_are_those_of_the_rounded_matrices(self, tiny_gpt, monkeypatch):
        monkeypatch.setattr(int8, "LEAST_WIDTH", 16)
        monkeypatch.setattr(int8, "refuse_no_int8", lambda model, name: None)
        backbone = from_model(*tiny_gpt("llama"), name="llama")
        backbone.to_int8()
        reference = from_model(*tiny_gpt("llama"), name="llama")
        layers = dict(backbone.model.named_modules())
        for name, layer in reference.model.named_modules():
            if isinstance(layers[name], int8.Int8Layer):
                layer.weight.data = layers[name].linear.scale[:, None] * layers[name].weight
        rounded, _ = gradient(backbone)
        with exact_products(backbone):
            exact, _ = gradient(backbone)
        assert torch.allclose(exact, gradient(reference)[0], atol=1e-6)
        assert not torch.allclose(exact, rounded, atol=1e-4)
        assert torch.equal(gradient(backbone)[0], rounded)

    def test_of_bfloat16_are_those_of_the_same_matrices_in_float32(self, tiny_gpt):
        model, tokenizer = tiny_gpt("gpt2", dtype=torch.bfloat16)
        exact = from_model(copy.deepcopy(model).float(), tokenizer, name="exact")
        mixed = from_model(model, tokenizer, name="mixed")
        rounded, _ = gradient(mixed)
        with exact_products(mixed):
            found, _ = gradient(mixed)
        assert error(found, gradient(exact)[0]) < 1e-5
        assert torch.equal(gradient(mixed)[0], rounded)


class TestWarning:
    def run(self, backbone, task, folder):
        prompts = [PromptSettings(method="prompt-tuning")]
        train(task, backbone, prompts=prompts, settings=TrainSettings(steps=1), output=folder)

    @pytest.mark.parametrize(("bound", "warned"), [(1.1, True), (0.9, False)])
    def test_a_spoiled_gradient_is_told_in_one_line(self, bound, warned, task, tiny_gpt, tmp_path, caplog, monkeypatch):
        from softprompt.training import _rounding

        # Two tiny layers spoil no gradient, so the bound is put where none is good enough.
        monkeypatch.setattr(_rounding, "SPOILED", bound)
        self.run(from_model(*tiny_gpt("llama", dtype=torch.bfloat16), name="llama"), task, tmp_path / "run")
        found = [line for line in caplog.messages if "spoil" in line]
        assert len(found) == warned
        assert not found or re.match(r"bfloat16 products .* on 4 training rows its cosine .* is [01]\.\d\d", found[0])

    def test_float32_is_not_probed(self, task, tiny_gpt, tmp_path, caplog, monkeypatch):
        from softprompt.training import _rounding

        monkeypatch.setattr(_rounding, "SPOILED", 1.1)
        self.run(from_model(*tiny_gpt("llama"), name="llama"), task, tmp_path / "run")
        assert not [line for line in caplog.messages if "spoil" in line]
