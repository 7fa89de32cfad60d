"""Rescaled embeddings: the model computes what it did, and a prompt follows it from scale to scale."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.backbones.family import KINDS
from softprompt.backbones.rescale.scale import RECIPES, _outputs, digest_of, scale_embeddings
from softprompt.cli import main
from softprompt.documents import read_sealed
from softprompt.errors import BadInput, ModelMismatch, UnsupportedModel
from softprompt.inference.answers import answer
from softprompt.inference.evaluate import evaluate
from softprompt.inference.rows import examples_for
from softprompt.interop.attach import attach
from softprompt.interop.numpy import export_numpy, import_numpy
from softprompt.interop.peft import export_peft, import_peft
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.prompt import BackboneIdentity, Provenance, SoftPrompt
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.store import json_bytes, read_prompt, save_prompt
from softprompt.training import Interrupted, read_plan, resume, train
from softprompt.training import _train as train_module

from kit import review_task, same_files
from tiny import DECODERS, ENCODER_DECODERS, ENCODERS

ALL = (*ENCODER_DECODERS, *ENCODERS, *DECODERS)
# One of each kind, and what each does with its table.
SOME = ("t5", "bert", "gpt2", "gemma")


@pytest.fixture
def unit(tiny_model):
    """A random model whose norms have epsilons and weights that matter, and its tokenizer."""

    def build(family, **options):
        model, tokenizer = tiny_model(family, **options)
        generator = torch.Generator().manual_seed(1)
        for module in model.modules():
            for name in ("eps", "variance_epsilon"):
                if hasattr(module, name):
                    setattr(module, name, 0.3)
                    module.weight.data += 0.3 * torch.randn(module.weight.shape, generator=generator)
        return model, tokenizer

    return build


@torch.no_grad()
def outputs(model):
    return _outputs(model)


def a_prompt(backbone, task=None, n=3, size=1.0) -> SoftPrompt:
    vectors = size * torch.randn(n, backbone.embedding_size, generator=torch.Generator().manual_seed(n))
    shown = None if task is None else task.to_json()
    return SoftPrompt(vectors, Provenance("prompt-tuning", backbone.identity(), backbone.answers, shown), 2)


def scores(backbone, prompt, task, rows=({"text": "a very good film"}, {"text": "the movie was terrible and bad"})):
    examples = examples_for(backbone, task, rows, prompt.length, targets=False)
    found = answer(backbone, PromptBatch.of(prompt, device=backbone.device), examples, task).scores
    assert found is not None
    return found


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("rows") / "reviews")


def test_every_supported_family_has_a_recipe():
    assert set(RECIPES) == set(KINDS)


@pytest.mark.parametrize("family", ALL)
class TestEveryFamily:
    def test_a_power_of_two_leaves_every_bit_of_the_outputs(self, family, unit):
        model, _ = unit(family)
        before = outputs(model)
        scale_embeddings(model, 32.0)
        # 1 + weight is rounded where it stands for the weight.
        torch.testing.assert_close(outputs(model), before, rtol=0, atol=1e-5 if family.startswith("gemma") else 0)

    def test_any_factor_leaves_the_outputs_to_rounding(self, family, unit):
        model, _ = unit(family, dtype=torch.float64)
        before = outputs(model)
        scale_embeddings(model, 30.0)
        # T5's and Llama's norms compute in float32 even then.
        torch.testing.assert_close(outputs(model), before, rtol=0, atol=1e-5 * before.abs().max().item())

    def test_word_vectors_are_multiplied(self, family, unit):
        model, tokenizer = unit(family)
        before = from_model(model, tokenizer).word_vectors.clone()
        backbone = from_model(model, tokenizer, embedding_scale=32.0)
        assert torch.equal(backbone.word_vectors, before * 32)

    def test_a_prompt_times_the_scale_answers_the_same(self, family, unit, task):
        model, tokenizer = unit(family)
        plain = from_model(copy.deepcopy(model), tokenizer)
        scaled = from_model(model, tokenizer, embedding_scale=32.0)
        prompt = a_prompt(plain)
        moved = prompt.at_scale(scaled.embedding_scale)
        assert torch.equal(moved.vectors, prompt.vectors * 32)
        assert moved.provenance.backbone == scaled.identity()
        expected, found = scores(plain, prompt, task), scores(scaled, moved, task)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if family.startswith("gemma") else 0)
        # The prompt is read at all.
        assert not torch.allclose(scores(scaled, prompt, task), expected, atol=1e-3)


@pytest.mark.parametrize("family", ["t5", "llama", "bert", "bart", "gpt2", "opt"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_compensated_only_where_it_shares_the_table(family, tied, unit):
    model, _ = unit(family, tie_word_embeddings=tied)
    head = model.get_output_embeddings()
    if not tied:
        head.weight = torch.nn.Parameter(head.weight.detach() + 1.0)
    else:
        head.weight = model.get_input_embeddings().weight
    before, weight = outputs(model), head.weight.clone()
    scale_embeddings(model, 8.0)
    assert torch.equal(outputs(model), before)
    assert torch.equal(head.weight, weight * (8 if tied else 1))


def test_an_encoder_without_a_head_keeps_its_states(tiny_bert):
    model, _ = tiny_bert(head=False)
    before = outputs(model)
    scale_embeddings(model, 32.0)
    assert torch.equal(outputs(model), before)


@pytest.mark.parametrize("family", SOME)
def test_bfloat16_keeps_every_bit_under_a_power_of_two(family, unit):
    model, _ = unit(family, dtype=torch.bfloat16)
    before = outputs(model)
    scale_embeddings(model, 64.0)
    torch.testing.assert_close(outputs(model), before, rtol=0, atol=0.1 if family == "gemma" else 0)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_gemma_in_bfloat16_does_not_lose_its_last_norm(unit):
    model, _ = unit("gemma", dtype=torch.bfloat16)
    expected = 1 + model.model.norm.weight.float()
    scale_embeddings(model, 64.0)
    torch.testing.assert_close((1 + model.model.norm.weight) * 64, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("family", "epsilon"), [("t5", "layer_norm_epsilon"), ("gpt2", "layer_norm_epsilon"),
                                                 ("llama", "rms_norm_eps")])  # fmt: skip
def test_a_rescaled_model_is_saved_exactly(family, epsilon, tiny_model, save_tiny, tmp_path):
    model, tokenizer = tiny_model(family, **{epsilon: 0.3})
    before = outputs(model)
    scale_embeddings(model, 32.0)
    saved = load_backbone(save_tiny(tmp_path / "model", model, tokenizer))
    assert torch.equal(outputs(saved.model), before)
    # A checkpoint of its own, at its own scale 1.
    assert saved.embedding_scale == 1
    assert saved.identity().embedding_sha256 == digest_of(model.get_input_embeddings().weight)


def test_factors_multiply_and_a_scale_is_over_the_checkpoint(tiny_t5):
    model, tokenizer = tiny_t5()
    table = model.shared.weight.clone()
    scale_embeddings(model, 2.0)
    scale_embeddings(model, 8.0)
    backbone = from_model(model, tokenizer)
    assert backbone.embedding_scale == 16
    assert from_model(model, tokenizer, embedding_scale=16.0).embedding_scale == 16
    assert torch.equal(model.shared.weight, table * 16)
    assert from_model(model, tokenizer, embedding_scale=1.0).identity().embedding_scale == 1
    assert torch.equal(model.shared.weight, table)
    assert backbone.identity().embedding_sha256 == digest_of(table)


def test_a_table_that_was_exchanged_since_is_another_model(tiny_t5):
    model, tokenizer = tiny_t5()
    backbone = from_model(model, tokenizer, embedding_scale=30.0)
    own = backbone.identity()
    assert (own.embedding_scale, from_model(copy.deepcopy(model), tokenizer).identity()) == (30, own)
    model.shared.weight[3] += 1.0
    changed = backbone.identity()
    assert changed.embedding_scale == 1
    assert changed.embedding_sha256 == digest_of(model.shared.weight) != own.embedding_sha256


def state_of(model):
    """Every number and every epsilon."""
    epsilons = [getattr(m, n) for m in model.modules() for n in ("eps", "variance_epsilon") if hasattr(m, n)]
    modes = [module.training for module in model.modules()]
    return {name: value.clone() for name, value in model.state_dict().items()}, epsilons, modes, model.config.to_dict()


def same_state(one, other):
    return all(torch.equal(one[0][name], value) for name, value in other[0].items()) and one[1:] == other[1:]


class TestRefusal:
    @pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
    def test_a_factor_that_is_none(self, factor, tiny_t5):
        model, tokenizer = tiny_t5()
        for call in (
            lambda: scale_embeddings(model, factor),
            lambda: from_model(model, tokenizer, embedding_scale=factor),
            lambda: load_backbone("nowhere", embedding_scale=factor),
            lambda: BackboneIdentity("m", "encoder", 2, embedding_scale=factor),
        ):
            with pytest.raises(BadInput, match="`embedding_scale` must be a positive, finite number"):
                call()

    def test_a_model_that_does_not_normalise_what_it_reads_stays_as_it_was(self, tiny_gpt):
        shape = {"do_layer_norm_before": False, "word_embed_proj_dim": 16}
        with pytest.raises(UnsupportedModel, match=r"lacks a norm that others of its family \(opt\) have"):
            scale_embeddings(tiny_gpt("opt", **shape)[0], 2.0)
        model, _ = tiny_gpt("opt", **shape, tie_word_embeddings=False)
        model.train()
        model.model.decoder.layers[0].eval()
        before = state_of(model)
        with pytest.raises(UnsupportedModel, match="would change its answers"):
            scale_embeddings(model, 30.0)
        assert same_state(before, state_of(model))

    def test_a_factor_at_which_numbers_overflow_leaves_the_model_as_it_was(self, unit):
        model, _ = unit("gemma")
        before = state_of(model)
        for factor in (1e30, 1e200, 1e-30):
            with pytest.raises(UnsupportedModel, match="would change its answers by"):
                scale_embeddings(model, factor)
            assert same_state(before, state_of(model))

    def test_a_family_without_a_recipe(self):
        from transformers import DebertaV2Config, DebertaV2ForMaskedLM

        model = DebertaV2ForMaskedLM(
            DebertaV2Config(
                vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
            )
        )
        with pytest.raises(UnsupportedModel, match=r"of a deberta-v2 .* is not known, only of albert, bart"):
            scale_embeddings(model, 2.0)
        scale_embeddings(model, 1.0)

    def test_adapted_weights(self, tiny_t5):
        import peft

        config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["o"], r=2)
        model, tokenizer = tiny_t5()
        wrapped = peft.get_peft_model(model, config)
        with pytest.raises(UnsupportedModel, match=r"adapted \(Linear\) and cannot be rescaled"):
            from_model(wrapped, tokenizer, embedding_scale=2.0)

    def test_quantised_weights(self, tiny_t5):
        model, _ = tiny_t5()
        wo = model.encoder.block[0].layer[1].DenseReluDense.wo
        wo.weight = torch.nn.Parameter(wo.weight.to(torch.int8), requires_grad=False)
        with pytest.raises(UnsupportedModel, match="quantised"):
            scale_embeddings(model, 2.0)


class TestPrompt:
    def test_another_scale_is_a_mismatch_that_says_so(self, tiny_t5):
        plain = from_model(*tiny_t5(), name="mine")
        scaled = from_model(*tiny_t5(), name="mine", embedding_scale=30.0)
        with pytest.raises(ModelMismatch, match=r"'mine' at embedding scale 30, this model is at 1; load it with emb"):
            plain.check(a_prompt(scaled))
        with pytest.raises(ModelMismatch, match=r"at embedding scale 1, this model is at 30; .*prompt.at_scale\(30\)"):
            scaled.check(a_prompt(plain))
        scaled.check(a_prompt(plain).at_scale(30.0))

    def test_there_and_back_is_the_same_prompt(self, tiny_t5):
        prompt = a_prompt(from_model(*tiny_t5()))
        there = prompt.at_scale(32.0)
        assert torch.equal(there.at_scale().vectors, prompt.vectors)
        assert there.at_scale(1.0).provenance == prompt.provenance
        assert prompt.at_scale(1.0) is prompt
        torch.testing.assert_close(prompt.at_scale(30.0).at_scale(1.0).vectors, prompt.vectors, rtol=1e-6, atol=0)
        with pytest.raises(BadInput, match="infinity"):
            prompt.at_scale(1e39)

    def test_the_scale_is_stored(self, tiny_t5, tmp_path):
        prompt = a_prompt(from_model(*tiny_t5(), embedding_scale=30.0))
        loaded = read_prompt(save_prompt(prompt, tmp_path / "prompt"))
        assert loaded.provenance == prompt.provenance
        assert loaded.provenance.backbone.embedding_scale == 30

    def test_a_prompt_stored_before_there_were_scales_is_at_scale_1(self, tiny_t5):
        from softprompt.store import from_document, to_document

        prompt = a_prompt(from_model(*tiny_t5()))
        document = to_document(prompt)
        del document["provenance"]["backbone"]["embedding_scale"]
        loaded = from_document(document, {"vectors": prompt.vectors}, "there")
        assert loaded.provenance == prompt.provenance
        for wrong in ("30", None, -1.0):
            document["provenance"]["backbone"]["embedding_scale"] = wrong
            with pytest.raises(BadInput, match=r"embedding.scale"):
                from_document(json.loads(json_bytes(document)), {"vectors": prompt.vectors}, "there")


@pytest.mark.parametrize("family", ["t5", "bert", "gpt2"])
class TestOthers:
    """Plain transformers and PEFT load the checkpoint at its own scale."""

    @pytest.fixture
    def both(self, family, unit):
        model, tokenizer = unit(family)
        return model, from_model(copy.deepcopy(model), tokenizer, embedding_scale=32.0), tokenizer

    def test_attached_to_the_plain_model_it_answers_as_on_the_scaled_one(self, family, both):
        plain, scaled, tokenizer = both
        prompt = a_prompt(scaled, size=32.0)
        inputs = tokenizer(["a very good film"], return_tensors="pt")
        labels = {"labels": inputs.input_ids} if family == "t5" else {}
        with torch.no_grad():
            on_plain = attach(prompt, plain)(**inputs, **labels).logits
            on_scaled = attach(prompt, scaled.model)(**inputs, **labels).logits
            without = plain(**inputs, **labels).logits
        assert torch.equal(on_plain, on_scaled)
        assert not torch.allclose(on_plain, without, atol=1e-3)

    def test_exported_vectors_are_those_of_the_plain_model(self, family, both, tmp_path):
        _, scaled, _ = both
        prompt = a_prompt(scaled, size=32.0)
        array = np.load(export_numpy(prompt, tmp_path / "prompt.npy"))
        assert np.array_equal(array, (prompt.expanded() / 32).numpy())
        back = import_numpy(tmp_path / "prompt.npy", backbone_name="mine", kind=scaled.kind)
        assert torch.equal(back.at_scale(32.0).vectors, prompt.expanded())

    def test_stock_peft_with_the_plain_model_answers_as_ours_with_the_scaled_one(self, family, both, tmp_path):
        from peft import PeftModel

        plain, scaled, tokenizer = both
        prompt = a_prompt(scaled, size=32.0)
        folder = export_peft(prompt, tmp_path / "peft", model=plain)
        inputs = tokenizer(["a very good film"], return_tensors="pt")
        inputs = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
        labels = {"labels": inputs["input_ids"]} if family == "t5" else {}
        with torch.no_grad():
            expected = attach(prompt, scaled.model)(**inputs, **labels).logits
            found = PeftModel.from_pretrained(copy.deepcopy(plain), folder).eval()(**inputs, **labels).logits
        torch.testing.assert_close(found[:, -expected.shape[1] :], expected, rtol=0, atol=1e-5)

    def test_a_peft_folder_comes_back_for_the_plain_model(self, family, both, tmp_path):
        plain, scaled, tokenizer = both
        prompt = a_prompt(scaled, size=32.0)
        back = import_peft(export_peft(prompt, tmp_path / "peft"))
        assert torch.equal(back.vectors, prompt.vectors / 32)
        from_model(plain, tokenizer).check(back)
        assert torch.equal(back.at_scale(32.0).vectors, prompt.vectors)
        assert back.at_scale(32.0).provenance == prompt.provenance


@pytest.fixture(scope="module")
def folder(tiny_t5, save_tiny, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "t5", *tiny_t5())


SETTINGS = TrainSettings(steps=4, eval_every=2, batch_size=4)
PROMPT, NAME = PromptSettings(method="prompt-tuning", lr=0.1), "prompt-tuning-seed0"


@pytest.fixture(scope="module")
def run(folder, task, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    return train(task, str(folder), prompts=[PROMPT], settings=SETTINGS, output=output, embedding_scale=30.0)


class TestRun:
    def test_plan_and_prompt_record_the_scale(self, run):
        assert read_plan(run.folder).model.embedding_scale == 30
        assert run.prompt().provenance.backbone.embedding_scale == 30

    def test_evaluate_and_predict_load_the_backbone_at_the_scale_of_the_prompt(self, run, folder, task):
        prompt = run.prompt()
        backbone = load_backbone(folder, embedding_scale=30.0)
        expected = scores(backbone, prompt, task, [{"text": "very good"}])[0].softmax(-1).tolist()
        assert list(prompt.predict(["very good"])[0]["scores"].values()) == pytest.approx(expected)
        expected = evaluate(prompt, model=backbone)
        assert evaluate(prompt) == evaluate(prompt, model=str(folder)) == expected
        assert expected.metrics.items() <= run.results[0].metrics["test"].items()
        with pytest.raises(ModelMismatch, match="at embedding scale 30"):
            evaluate(prompt, model=load_backbone(folder))

    def test_two_scales_of_one_model_do_not_share_what_predict_keeps(self, run):
        prompt = run.prompt()
        answers = prompt.predict(["very good"])
        assert prompt.at_scale(1.0).predict(["very good"])[0]["scores"] == pytest.approx(answers[0]["scores"], rel=1e-4)

    def test_a_loaded_backbone_brings_its_own(self, run, folder, task, tmp_path):
        backbone = load_backbone(folder, embedding_scale=30.0)
        own = train(task, backbone, prompts=[PROMPT], settings=SETTINGS, output=tmp_path / "own")
        assert same_files(run.folder / NAME, own.folder / NAME)
        assert read_plan(own.folder).model.embedding_scale == 30
        with pytest.raises(BadInput, match=r"embedding_scale=32, but .* was loaded with embedding_scale=30"):
            train(task, backbone, prompts=[PROMPT], output=tmp_path / "other", embedding_scale=32.0)
        assert not (tmp_path / "other").exists()

    def test_a_resumed_run_uses_the_scale_of_its_plan(self, run, folder, task, tmp_path, monkeypatch):
        whole = train_module.Loop.run

        def cut(self, *, is_stopped, **others):
            return whole(self, is_stopped=lambda: self.step >= 2, **others)

        monkeypatch.setattr(train_module.Loop, "run", cut)
        other = tmp_path / "run"
        with pytest.raises(Interrupted):
            train(task, str(folder), prompts=[PROMPT], settings=SETTINGS, output=other, embedding_scale=30.0)
        monkeypatch.undo()
        with pytest.raises(ModelMismatch, match="was started with embedding_scale=30"):
            resume(other, model=load_backbone(folder))
        resume(other)
        assert same_files(run.folder / NAME, other / NAME)

    def test_a_plan_from_before_there_were_scales_is_at_scale_1(self, run):
        values = read_sealed(run.folder / "run.json")
        del values["embedding_scale"]
        assert type(read_plan(run.folder)).from_json(values).model.embedding_scale == 1

    @pytest.mark.parametrize("kind", ["prompt", "file"])
    def test_vectors_to_start_from_are_brought_to_the_scale(self, kind, run, folder, task, tmp_path):
        source = run.prompt()
        path = save_prompt(source, tmp_path / "p") if kind == "prompt" else export_numpy(source, tmp_path / "p.npy")
        # Too small a rate to move a number in float32.
        prompt = dataclasses.replace(PROMPT, lr=1e-30, init=f"{kind}:{path}")
        done = train(
            task, str(folder), prompts=[prompt], settings=SETTINGS, output=tmp_path / "run", embedding_scale=60.0
        )
        torch.testing.assert_close(done.prompt().vectors, source.vectors * 2, rtol=1e-6, atol=0)


def test_a_wrong_scale_on_the_command_line_is_one_line(folder, task, tmp_path, capsys):
    words = ["train", "--task", "glue/sst2", "--model", str(folder), "--output", str(tmp_path / "run")]
    for wrong in ("0", "-3", "inf", "nan"):
        assert main([*words, f"--embedding-scale={wrong}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("softprompt: --embedding-scale must be a positive, finite number, not")
    assert not (tmp_path / "run").exists()


def test_the_scale_from_the_command_line_to_the_answer(folder, task, tmp_path, capsys):
    files = task.source.files
    words = ["--data", files["train"], "--validation-data", files["validation"], "--test-data", files["test"]]
    words += ["--text-column", "text", "--label-column", "label", "--model", str(folder), "--quiet"]
    words += ["--method", "prompt-tuning", "--steps", "2", "--batch-size", "4", "--embedding-scale", "30"]
    assert main(["train", *words, "--output", str(tmp_path / "run")]) == 0
    assert main(["predict", str(tmp_path / "run"), "very good"]) == 0
    assert main(["show", str(tmp_path / "run" / "prompt-tuning-seed0" / "prompt")]) == 0
    assert "embedding_scale" in capsys.readouterr().out
