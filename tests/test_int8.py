"""Frozen layers in int8: the products that are written down, rows that know nothing of each other, and gradients."""

import copy

import pytest
import torch
from softprompt import TrainSettings, evaluate, from_model, load_backbone, resume, train
from softprompt.backbones.fast import int8 as _int8
from softprompt.backbones.fast.int8 import Int8Layer, Int8Linear, rounded, to_int8
from softprompt.errors import ModelMismatch, UnknownName, UnsupportedModel
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.training._loop import Loop
from transformers.pytorch_utils import Conv1D

from kit import review_task, same_files
from tiny import DECODERS, ENCODER_DECODERS, ENCODERS

needs_vnni = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="no AVX512-VNNI")


def weight_of(outputs=24, inputs=40, seed=0):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def rows_of(count, width=40, seed=1):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def restored(rows):
    levels, scale = rounded(rows)
    return levels.double() * scale.double()


class TestRounding:
    def test_a_row_has_255_levels_up_to_its_largest_number(self):
        rows = torch.tensor([[0.0, 1.0, -2.0, 127.0], [-254.0, 0.9, 1.1, 3.1]])
        levels, scale = rounded(rows)
        assert levels.tolist() == [[0, 1, -2, 127], [-127, 0, 1, 2]]
        assert scale.tolist() == [[1.0], [2.0]]

    def test_no_number_is_further_from_its_level_than_half_a_step(self):
        rows = rows_of(50)
        assert ((restored(rows) - rows).abs() <= rows.abs().amax(1, keepdim=True) / 254 * (1 + 1e-5)).all()

    def test_zeros_and_numbers_too_small_for_a_scale_become_zeros(self):
        levels, scale = rounded(torch.tensor([[0.0, -0.0], [1e-40, 1e-38]]))
        assert not levels.any()
        assert scale.isfinite().all()


@needs_vnni
class TestInt8Linear:
    @pytest.mark.parametrize("count", [7, 1, 0])
    def test_the_product_is_that_of_the_rounded_rows_and_the_rounded_matrix(self, count):
        weight, x = weight_of(), rows_of(count)
        expected = restored(x) @ restored(weight).t()
        torch.testing.assert_close(Int8Linear(weight)(x), expected.float(), rtol=1e-6, atol=1e-6)

    def test_the_gradient_is_that_of_the_rounded_gradient_and_the_rounded_columns(self):
        weight, x, gradient = weight_of(), rows_of(7).requires_grad_(), rows_of(7, 24, seed=2)
        Int8Linear(weight)(x).backward(gradient)
        expected = restored(gradient) @ restored(weight.t()).t()
        torch.testing.assert_close(x.grad, expected.float(), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("seed", range(3))
    def test_both_are_within_two_percent_of_float32(self, seed):
        weight, x, gradient = weight_of(128, 256, seed), rows_of(64, 256, seed + 10), rows_of(64, 128, seed + 20)
        linear = Int8Linear(weight)
        for found, exact in ((linear.forward(x), x @ weight.t()), (linear.backward(gradient), gradient @ weight)):
            assert (found - exact).norm() < 0.02 * exact.norm()

    def test_extreme_numbers_do_not_saturate(self):
        """Two products of 127 x 127 in 16 bits would, as they do without VNNI."""
        ones = torch.ones(3, 512)
        torch.testing.assert_close(Int8Linear(ones)(-ones), torch.full((3, 3), -512.0), rtol=1e-6, atol=0)

    def test_what_becomes_of_a_row_depends_on_no_other_row_to_the_last_bit(self, monkeypatch):
        linear, rows = Int8Linear(weight_of()), rows_of(50)
        whole = linear.forward(rows)
        assert torch.equal(torch.cat([linear.forward(row) for row in rows.split(1)]), whole)
        monkeypatch.setattr(_int8, "BLOCK", 280)  # 7 rows
        assert torch.equal(linear.forward(rows), whole)

    @pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf"), 1e30])
    def test_a_broken_or_outlying_row_stays_alone(self, broken):
        linear, rows = Int8Linear(weight_of()), rows_of(6)
        whole = linear.forward(rows)
        rows[2, 5] = broken
        found = linear.forward(rows)
        assert found[2].isfinite().any() == (broken == 1e30)
        others = [0, 1, 3, 4, 5]
        assert torch.equal(found[others], whole[others])

    def test_a_row_of_zeros_gives_zeros(self):
        linear = Int8Linear(weight_of())
        assert not linear.forward(torch.zeros(2, 40)).any()
        assert not linear.backward(torch.zeros(2, 24)).any()

    def test_a_matrix_with_an_empty_channel_is_the_matrix(self):
        weight = weight_of()
        weight[3], weight[:, 7] = 0, 0
        linear = Int8Linear(weight)
        assert not linear.forward(rows_of(4))[:, 3].any()
        assert not linear.backward(rows_of(4, 24))[:, 7].any()

    def test_rows_may_lie_anywhere_in_memory(self):
        linear, x = Int8Linear(weight_of()), torch.randn(40, 6).t()
        assert torch.equal(linear(x), linear(x.contiguous()))
        gradient = torch.randn(24, 30).t()
        assert torch.equal(linear.backward(gradient), linear.backward(gradient.contiguous()))
        expanded = torch.ones(1, 24).expand(30, 24)
        assert torch.equal(linear.backward(expanded), linear.backward(expanded.contiguous()))

    @pytest.mark.parametrize("shape", [(2, 3, 40), (40,), (0, 40), (2, 0, 40)])
    def test_rows_of_a_layer_have_any_shape(self, shape):
        layer, x = Int8Layer(weight_of(), None), torch.randn(shape)
        expected = layer.linear.forward(x.reshape(-1, 40)).view(*shape[:-1], 24)
        assert torch.equal(layer(x), expected)

    def test_a_layer_adds_its_bias_and_has_nothing_to_train(self):
        weight, bias, x = weight_of(), torch.randn(24), rows_of(3)
        layer = Int8Layer(weight, bias)
        assert torch.equal(layer(x), Int8Linear(weight).forward(x) + bias)
        assert not list(layer.parameters())
        assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.fixture
def any_width(monkeypatch):
    """Layers of any width in int8, those of the tiny models too."""
    monkeypatch.setattr(_int8, "LEAST_WIDTH", 1)


def layers_in_int8(model):
    return {name for name, module in model.named_modules() if isinstance(module, Int8Layer)}


@needs_vnni
class TestModels:
    @pytest.mark.parametrize("family", [*ENCODER_DECODERS, *ENCODERS, *DECODERS])
    def test_every_family_answers_nearly_as_before_and_its_head_is_left_alone(self, family, tiny_model, any_width):
        plain, tokenizer = tiny_model(family)
        model, _ = tiny_model(family)
        backbone = from_model(model, tokenizer, quantize="int8", engine="reference")
        assert backbone.quantize == from_model(model, tokenizer).quantize == "int8"
        assert from_model(plain, tokenizer).quantize is None
        ids = torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(0))
        given = {"input_ids": ids} | ({"decoder_input_ids": ids} if backbone.kind == "encoder-decoder" else {})
        with torch.no_grad():
            for name in layers_in_int8(model):
                layer = model.get_submodule(name)
                x = rows_of(5, layer.weight.shape[1])
                exact = plain.get_submodule(name)(x)
                assert (layer(x) - exact).norm() < 0.03 * exact.norm(), name
            exact, found = plain(**given).logits, model(**given).logits
        # 16 numbers a row: rounding shows more than in a wide model.
        assert 0 < (found - exact).norm() < 0.2 * exact.norm()
        left = {name for name, module in model.named_modules() if type(module) in (torch.nn.Linear, Conv1D)}
        heads = ("lm_head", "cls.", "predictions.", "vocab_", "generator_")
        assert all(name.startswith(heads) for name in left)
        assert not any(name.startswith(heads) for name in layers_in_int8(model))

    def test_layers_that_are_too_narrow_to_pay_stay_as_they_are(self, lab_t5):
        backbone = load_backbone("lab-t5", device="cpu", quantize="int8", engine="reference")
        plain = dict(lab_t5.model.named_modules())
        # 128 wide; its gated layers have 192.
        expected = {name for name, module in plain.items() if type(module) is torch.nn.Linear} - {"lm_head"}
        expected = {name for name in expected if min(plain[name].weight.shape) >= 128}
        assert layers_in_int8(backbone.model) == expected != set()
        assert backbone.identity() == lab_t5.identity()

    def test_a_model_without_wide_layers_is_refused(self):
        with pytest.raises(UnsupportedModel, match="no plain linear layer of at least 128 inputs and outputs"):
            load_backbone("lab-t5-small", device="cpu", quantize="int8")

    def test_layers_that_are_one_stay_one(self, tiny_bert, any_width):
        model, tokenizer = tiny_bert("albert")
        from_model(model, tokenizer, quantize="int8")
        found = [module for module in model.modules() if isinstance(module, Int8Layer)]
        assert len(found) == len(set(map(id, found)))
        layer = model.base_model.encoder.albert_layer_groups[0]
        assert len(found) == sum(isinstance(m, Int8Layer) for m in layer.modules()) + 1

    def test_rescaled_embeddings_come_first(self, tiny_t5, any_width):
        model, tokenizer = tiny_t5()
        backbone = from_model(model, tokenizer, embedding_scale=2.0, quantize="int8")
        assert (backbone.embedding_scale, backbone.quantize) == (2.0, "int8")
        reference, _ = tiny_t5()
        other = from_model(reference, tokenizer, quantize="int8")
        prompt = torch.randn(2, 16)
        ids = torch.tensor([[5, 6, 7, 1]])
        batch = TextBatch(ids, ids > 0, torch.zeros(1, dtype=torch.long), torch.tensor([[8, 1]]))
        # A power of two changes no digit of what is rounded.
        a, b = backbone.logits(PromptBatch.stack([2 * prompt]), batch), other.logits(PromptBatch.stack([prompt]), batch)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


class TestRefusals:
    def test_no_instructions(self, tiny_t5, any_width, monkeypatch):
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
        model, tokenizer = tiny_t5()
        before = copy.deepcopy(model)
        with pytest.raises(UnsupportedModel, match="a processor with AVX512-VNNI"):
            from_model(model, tokenizer, quantize="int8")
        assert repr(model) == repr(before)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
    def test_another_precision(self, dtype):
        with pytest.raises(UnsupportedModel, match=f"int8 is made of float32 weights, 'lab-t5' is in torch.{dtype}"):
            load_backbone("lab-t5", device="cpu", dtype=dtype, quantize="int8")

    def test_another_device(self, tiny_t5):
        model, _ = tiny_t5()
        with pytest.raises(UnsupportedModel, match="int8 is for the CPU, 'm' is on meta"):
            to_int8(model.to("meta"), "m")

    def test_weights_that_an_adapter_changes(self, tiny_gpt):
        from peft import LoraConfig, get_peft_model

        model, tokenizer = tiny_gpt("llama")
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
        with pytest.raises(UnsupportedModel, match="quantised or adapted already"):
            from_model(adapted, tokenizer, quantize="int8")

    def test_another_kind_of_weights(self):
        with pytest.raises(UnknownName, match="kind of frozen weights 'int4'"):
            load_backbone("lab-t5", quantize="int4")


@pytest.fixture
def task(tmp_path):
    return review_task(tmp_path / "data")


@needs_vnni
class TestTraining:
    @pytest.mark.parametrize("engine", ["packed", "reference"])
    def test_the_record_says_so_and_a_run_that_died_is_resumed_to_the_same_bytes(
        self, engine, task, tiny_t5, save_tiny, tmp_path, monkeypatch, any_width
    ):
        folder = str(save_tiny(tmp_path / "model", *tiny_t5()))
        how = {"device": "cpu", "engine": engine}

        def go(name):
            settings = TrainSettings(steps=4, eval_every=2, batch_size=4)
            return train(task, folder, settings=settings, output=tmp_path / name, quantize="int8", **how)

        prompt = go("whole").prompt(0)
        assert prompt.provenance.training["quantize"] == "int8"
        optimize = Loop._optimize

        def dying(loop):
            if loop.step == 4:
                raise MemoryError
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", dying)
        with pytest.raises(MemoryError):
            go("killed")
        monkeypatch.setattr(Loop, "_optimize", optimize)
        with pytest.raises(ModelMismatch, match=r"started with quantize='int8', .* was loaded with quantize=None"):
            resume(tmp_path / "killed", model=load_backbone(folder, **how))
        resume(tmp_path / "killed", device="cpu")
        assert same_files(
            tmp_path / "whole", tmp_path / "killed", ignore=("timing.jsonl", "state.json", "manifest.json")
        )
        # A prompt is for the model, not for how its products are computed.
        assert evaluate(prompt, **how).metrics.keys() == evaluate(prompt, **how, quantize="int8").metrics.keys()

    def test_a_run_in_float32_says_nothing(self, task, tiny_t5, tmp_path):
        settings = TrainSettings(steps=1, eval_every=1, batch_size=4)
        run = train(task, from_model(*tiny_t5()), settings=settings, output=tmp_path / "run")
        assert "quantize" not in run.prompt(0).provenance.training

    @pytest.mark.parametrize("engine", ["packed", "reference"])
    def test_the_gradient_of_a_trained_model_is_nearly_that_in_float32(self, engine, lab_t5):
        """Of a prompt of word vectors; the layers are narrow, wide ones round less."""
        backbone = load_backbone("lab-t5", device="cpu", quantize="int8", engine=engine)
        assert backbone.engine == engine
        ids = torch.randint(5, 200, (8, 12), generator=torch.Generator().manual_seed(0))
        owner = torch.zeros(8, dtype=torch.long)
        batch = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), owner, ids[:, :2])
        found = []
        for one in (lab_t5, backbone):
            vectors = lab_t5.word_vectors[7:11].clone().requires_grad_()
            loss = -one.logits(PromptBatch.stack([vectors]), batch).log_softmax(-1).gather(2, ids[:, :2, None]).mean()
            (gradient,) = torch.autograd.grad(loss, vectors)
            found.append(gradient.flatten())
        assert torch.cosine_similarity(*found, dim=0) > 0.95
        assert not torch.equal(*found)

    @pytest.mark.parametrize("engine", ["packed", "reference"])
    def test_a_prompt_that_is_not_finite_leaves_the_gradient_of_the_others_as_it_is(self, engine):
        backbone = load_backbone("lab-t5", device="cpu", quantize="int8", engine=engine)
        ids = torch.randint(5, 200, (6, 12), generator=torch.Generator().manual_seed(0))
        batch = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(6) % 2, ids[:, :2])

        def gradient(broken):
            vectors = backbone.word_vectors[7:11].clone().view(2, 2, -1)
            vectors[0, 0, 0] = broken
            vectors.requires_grad_()
            losses = -backbone.logits(PromptBatch.stack(list(vectors)), batch).log_softmax(-1)[:, 0, 3]
            (found,) = torch.autograd.grad(losses.sum(), vectors)
            return found

        healthy, broken = gradient(0.5), gradient(float("nan"))
        assert broken[0].isnan().any()
        assert healthy[1].isfinite().all()
        assert torch.equal(broken[1], healthy[1])
