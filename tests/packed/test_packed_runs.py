"""When passes are packed: after changed weights, not where the model computes something else, and in runs."""

import dataclasses
import json

import pytest
import torch
from softprompt.backbones import _products, from_model, load_backbone, scale_embeddings
from softprompt.cli import main
from softprompt.errors import ModelMismatch, UnknownName, UnsupportedModel
from softprompt.prompts.batch import PromptBatch
from softprompt.settings import ModelSpec, PromptSettings, TrainSettings
from softprompt.training import resume, train

from engine_kit import close, drawn
from kit import review_task, rewrite
from packed_kit import answers, both, packed_of, passes, rows, tiny
from tiny import E, build_model


def first_attention(model):
    return model.encoder.block[0].layer[0]


CHANGES = {
    "a matrix": lambda model: first_attention(model).SelfAttention.q.weight.mul_(1.5),
    "a gain": lambda model: model.encoder.block[1].layer[1].layer_norm.weight.mul_(1.5),
    "the last gain": lambda model: model.decoder.final_layer_norm.weight.mul_(1.5),
    "the position table": lambda model: first_attention(model).SelfAttention.relative_attention_bias.weight.mul_(3),
    "all of them": lambda model: model.load_state_dict(tiny(seed=5)[0].state_dict()),
    "other embeddings": lambda model: model.resize_token_embeddings(200),
    "the epsilon": lambda model: setattr(first_attention(model).layer_norm, "variance_epsilon", 0.5),
    "the embedding scale": lambda model: scale_embeddings(model, 8.0),
    "the precision": lambda model: model.double(),
}


class TestChangedWeights:
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    @pytest.mark.filterwarnings("ignore:The tied weights mapping")
    def test_a_change_is_noticed_at_the_next_pass(self, change, exact_norms):
        dtype = torch.float32 if change is CHANGES["the precision"] else torch.float64
        model, tokenizer = tiny(dtype=dtype)
        packed, reference = both(model, tokenizer)
        prompt_batch, batch = PromptBatch.stack([drawn(2, E).to(dtype)]), rows([5, 2])
        before = answers(packed, prompt_batch, batch)
        with torch.no_grad():
            change(model)
        model.requires_grad_(False)
        after = answers(packed, prompt_batch, batch)
        if change not in (CHANGES["the embedding scale"], CHANGES["the precision"]):
            assert before.shape != after.shape or (before - after).abs().max() > 1e-4
        close(after, answers(reference, prompt_batch, batch), 1e-12)

    def test_folded_copies_are_made_once(self):
        backbone = from_model(*tiny(), engine="packed")
        prompt_batch, batch = PromptBatch.stack([drawn(2, E)]), rows([5, 2])
        first = packed_of(backbone)
        backbone.logits(prompt_batch, batch)
        backbone.label_scores(prompt_batch, batch, [[5, 1], [6, 1]])
        assert packed_of(backbone) is first


LATER = {
    "its dropout is on": lambda backbone: backbone.dropout(True),
    "hooks act on its layers": lambda backbone: backbone.gradient_checkpointing(True),
    "its weights are trained": lambda backbone: backbone.model.decoder.requires_grad_(True),
    "of several precisions": lambda backbone: backbone.model.lm_head.bfloat16(),
}


class TestLeftToTransformers:
    def adapted(self, model):
        from peft import LoraConfig, get_peft_model

        return get_peft_model(model, LoraConfig(target_modules=["q"], init_lora_weights=False)).get_base_model()

    def test_another_kind_asked_to_be_packed_is_refused(self, tiny_gpt):
        with pytest.raises(UnsupportedModel, match="only encoders and encoder-decoders have"):
            from_model(*tiny_gpt("gpt2"), engine="packed")

    def test_an_engine_that_does_not_exist_is_refused_with_the_nearest(self):
        with pytest.raises(UnknownName, match="'packed'"):
            from_model(*tiny(), engine="paked")

    def test_an_adapted_model_is_left_to_transformers_and_it_is_said(self, caplog):
        model, tokenizer = tiny()
        backbone = from_model(self.adapted(model), tokenizer)
        assert backbone.engine == "reference"
        assert [r.message for r in caplog.records] == [
            "'T5ForConditionalGeneration': passes by transformers, not packed: it holds a Linear, which is not T5's"
        ]

    @pytest.mark.parametrize("reason", LATER)
    def test_what_comes_later_is_left_to_transformers_and_said_once(self, reason, caplog):
        backbone = from_model(*tiny("t5-v1.1", dtype=torch.float32), engine="packed")
        LATER[reason](backbone)
        assert passes(backbone) is None
        assert passes(backbone) is None
        assert [reason in record.message for record in caplog.records] == [True]

    def test_a_hook_sees_every_pass(self):
        backbone = from_model(*tiny(), engine="packed")
        seen = []
        handle = backbone.model.encoder.block[0].register_forward_hook(lambda *arguments: seen.append(1))
        prompt_batch, batch = PromptBatch.stack([drawn(2, E)]), rows([5, 2])
        backbone.logits(prompt_batch, batch)
        assert seen == [1]
        handle.remove()
        backbone.logits(prompt_batch, batch)
        assert seen == [1]

    def test_a_transformers_that_computes_something_else_is_noticed(self, monkeypatch, caplog):
        from transformers.models.t5.modeling_t5 import T5LayerFF

        plain = T5LayerFF.forward
        monkeypatch.setattr(T5LayerFF, "forward", lambda self, states: plain(self, 2 * states))
        assert from_model(*tiny()).engine == "reference"
        assert "their logits differ from transformers' by" in caplog.text
        with pytest.raises(UnsupportedModel, match="their logits differ"):
            from_model(*tiny(), engine="packed")


class TestRuns:
    @pytest.fixture
    def folder(self, tmp_path, save_tiny):
        return save_tiny(tmp_path / "model", *build_model("t5"))

    def test_a_run_records_its_engine_and_goes_on_with_no_other(self, folder, tmp_path):
        task, quick = review_task(tmp_path / "data"), TrainSettings(steps=1, eval_every=1, batch_size=4)
        for asked, runs in (("auto", "packed"), ("reference", "reference")):
            run = train(task, str(folder), settings=quick, output=tmp_path / asked, engine=asked)
            assert json.loads((run.folder / "run.json").read_text())["engine"] == runs
            for result in run.folder.glob("*/result.json"):
                result.unlink()
        with pytest.raises(ModelMismatch, match="started with engine='packed'"):
            resume(tmp_path / "auto", model=load_backbone(str(folder), engine="reference"))

    def test_a_run_records_its_library_and_goes_on_with_it(self, folder, tmp_path, monkeypatch):
        """Whatever is chosen when it is resumed; what names none, as older runs do, took oneDNN."""
        task, quick = review_task(tmp_path / "data"), TrainSettings(steps=1, eval_every=1, batch_size=4)
        monkeypatch.setenv(_products.VARIABLE, "torch")
        run = train(task, str(folder), settings=quick, output=tmp_path / "run")
        plan = json.loads((run.folder / "run.json").read_text())
        assert plan["products"] == "torch"
        monkeypatch.setenv(_products.VARIABLE, "onednn")
        for recorded, expected in (("torch", "torch"), (None, "onednn")):
            rewrite(run.folder / "run.json", lambda plan, recorded=recorded: plan.update(products=recorded))
            for result in run.folder.glob("*/result.json"):
                result.unlink()
            backbone = load_backbone(str(folder))
            monkeypatch.setattr(backbone, "products", "torch")
            resume(run.folder, model=backbone)
            assert backbone.products == expected

    def test_a_run_that_names_no_engine_was_the_references(self, folder, tmp_path):
        from softprompt.training._plan import Plan

        plan = Plan(
            task=review_task(tmp_path / "data"),
            model=ModelSpec("m"),
            prompts=(PromptSettings(),),
            settings=TrainSettings(),
        )
        values = dataclasses.replace(plan, model=ModelSpec("m", engine="packed")).to_json()
        del values["engine"]
        assert Plan.from_json(values).model.engine == "reference"

    def test_the_command_line_takes_it(self, folder, tmp_path, capsys):
        task = review_task(tmp_path / "data")
        files = {split: str(path) for split, path in task.source.files.items()}
        command = ["train", "--task", files["train"], "--model", str(folder), "--engine", "referense", "--steps", "1"]
        columns = ["--text-column", "text", "--label-column", "label"]
        assert main([*command, *columns, "--output", str(tmp_path / "run")]) == 2
        assert "unknown engine 'referense'. Did you mean 'reference'?" in capsys.readouterr().err
