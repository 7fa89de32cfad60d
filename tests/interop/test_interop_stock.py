"""Exports to PEFT, and the recipes of their READMEs, as stock transformers and PEFT compute them."""

import copy
import dataclasses
import json
import re
from typing import Any

import pytest
import torch
from softprompt.backbones import EncoderBackbone
from softprompt.backbones.decoder import ANSWER_CUE
from softprompt.interop.peft import export_peft
from softprompt.interop.recipes import recipe
from softprompt.prompts.batch import PromptBatch, TextBatch

from interop_kit import WORDS, a_prompt


def joined(model, prompt, ids, mask):
    """What PEFT should compute: the expanded prompt before the embedded text, all of it attended to."""
    rows = prompt.expanded().expand(len(ids), -1, -1)
    embeds = torch.cat([rows, model.get_input_embeddings()(ids)], 1)
    return {"inputs_embeds": embeds, "attention_mask": torch.cat([torch.ones(rows.shape[:2]), mask], 1).long()}


def rendered(stock, *, suffix=""):
    texts = stock.tokenizer(["review : {film} plot" + suffix], return_tensors="pt")
    return texts.input_ids, texts.attention_mask


class TestStockPeft:
    def test_the_rows_are_the_expanded_prompt_bit_for_bit(self, stock):
        assert torch.equal(stock.found["t5 rows"], stock.prompts["t5"].expanded())

    def test_t5_logits_equal_the_plain_model_on_the_prompt_and_the_text(self, stock):
        model, inputs = stock.models["encoder-decoder"], stock.inputs
        embeds = joined(model, stock.prompts["t5"], inputs["ids"], inputs["mask"])
        expected = model(**embeds, decoder_input_ids=inputs["decoder_ids"]).logits
        torch.testing.assert_close(stock.found["t5 logits"], expected, rtol=0, atol=1e-5)

    def test_t5_generates_what_the_plain_model_generates(self, stock):
        model, inputs = stock.models["encoder-decoder"], stock.inputs
        embeds = joined(model, stock.prompts["t5"], inputs["ids"], inputs["mask"])
        expected = model.generate(**embeds, max_new_tokens=8)
        without = model.generate(input_ids=inputs["ids"], attention_mask=inputs["mask"], max_new_tokens=8)
        assert (expected != without).any(1).all()  # else a lost prompt would pass
        assert torch.equal(stock.found["t5 generated"], expected)

    def test_depth_and_heads_that_are_not_known_are_filled_in_by_peft(self, stock):
        config = json.loads((stock.root / "exports" / "unknown" / "adapter_config.json").read_text())
        assert (config["num_layers"], config["num_attention_heads"]) == (None, None)
        model, inputs = stock.models["encoder"], stock.inputs
        expected = model(**joined(model, stock.prompts["unknown"], inputs["ids"], inputs["mask"])).logits
        torch.testing.assert_close(stock.found["bert logits"], expected, rtol=0, atol=1e-5)

    def test_depth_and_heads_come_from_the_models_folder_or_the_model(self, stock, tmp_path):
        config = json.loads((stock.root / "exports" / "t5" / "adapter_config.json").read_text())
        assert (config["num_layers"], config["num_attention_heads"]) == (2, 4)
        prompt = a_prompt("decoder", "tokens", name="someone/elsewhere")
        folder = export_peft(prompt, tmp_path / "p", model=stock.models["decoder"])
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["num_layers"], config["num_attention_heads"]) == (2, 2)

    def test_code_and_faults_beside_a_model_that_a_prompt_names_are_left_alone(self, tmp_path, monkeypatch):
        monkeypatch.setattr("builtins.input", lambda *_: "y")
        model = tmp_path / "model"
        model.mkdir()
        (model / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass")
        auto = {"model_type": "evil", "auto_map": {"AutoConfig": "code.Config"}}
        odd = ({"n_layer": "x"}, {"model_type": ["a"]}, {"torch_dtype": "nope"})
        for number, changes in enumerate((auto, *odd, None)):
            text = "[" * 100_000 if changes is None else json.dumps({"model_type": "gpt2"} | changes)
            (model / "config.json").write_text(text)
            folder = export_peft(a_prompt("decoder", "tokens", name=str(model)), tmp_path / f"p{number}")
            assert json.loads((folder / "adapter_config.json").read_text())["num_layers"] is None
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("name", "task_type"),
        [
            ("t5", "SEQ_2_SEQ_LM"),
            ("head", "FEATURE_EXTRACTION"),
            ("words", "FEATURE_EXTRACTION"),
            ("decoder", "CAUSAL_LM"),
        ],
    )
    def test_the_task_type_is_never_null_and_there_is_one_submodule(self, stock, name, task_type):
        config = json.loads((stock.root / "exports" / name / "adapter_config.json").read_text())
        assert config["task_type"] == task_type
        assert config["num_transformer_submodules"] == 1
        assert config["prompt_tuning_init"] == "RANDOM"
        assert config["num_virtual_tokens"] == stock.prompts[name].length
        assert config["token_dim"] == 16


class TestRecipes:
    """Each README's code block, run as it stands in its folder, gives what the plain formula gives."""

    def test_of_a_linear_head(self, stock):
        model, prompt = stock.models["encoder"], stock.prompts["head"]
        ids, mask = rendered(stock)
        states = model.base_model(**joined(model, prompt, ids, mask)).last_hidden_state[:, prompt.length :]
        expected = states.mean(1) @ prompt.head.weight.T + prompt.head.bias
        torch.testing.assert_close(stock.found["head answers"], expected, rtol=0, atol=1e-5)

    def test_of_label_words(self, stock):
        model, prompt = stock.models["encoder"], stock.prompts["words"]
        ids, mask = rendered(stock, suffix=" [MASK]")
        logits = model(**joined(model, prompt, ids, mask)).logits[:, -2]  # [MASK] [SEP] end the row
        expected = logits.log_softmax(-1)[:, [WORDS.index("bad"), WORDS.index("good")]]
        torch.testing.assert_close(stock.found["words answers"], expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("name", "suffix"), [("head", ""), ("words", " [MASK]")])
    def test_gives_the_scores_of_our_own_backbone(self, stock, name, suffix):
        prompt = stock.prompts[name]
        model, answers = stock.models["encoder"], prompt.provenance.answers
        backbone = EncoderBackbone(model, stock.tokenizer, "bert", answers=answers)
        ids, mask = rendered(stock, suffix=suffix)
        batch = TextBatch(ids, mask.bool(), torch.zeros(1, dtype=torch.long))
        labels = backbone.encode_answers(["bad", "good", "film"][: 3 if name == "head" else 2])
        expected = backbone.label_scores(PromptBatch.of(prompt), batch, labels)
        found = stock.found[f"{name} answers"]
        torch.testing.assert_close(found.log_softmax(-1) if name == "head" else found, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("name", "kind"), [("t5", "encoder-decoder"), ("decoder", "decoder")])
    def test_of_generated_answers(self, stock, name, kind):
        model = stock.models[kind]
        # A decoder is asked behind its cue.
        ids, mask = rendered(stock, suffix=ANSWER_CUE if kind == "decoder" else "")
        expected = model.generate(**joined(model, stock.prompts[name], ids, mask), max_new_tokens=20)
        found = stock.found[f"{name} answers"]
        assert torch.equal(found if kind == "encoder-decoder" else found[:, ids.shape[1] :], expected)

    def test_answers_are_greedy_whatever_the_models_defaults_are(self, stock, tmp_path, monkeypatch):
        from transformers import AutoModelForSeq2SeqLM, GenerationConfig

        model = copy.deepcopy(stock.models["encoder-decoder"])
        keys = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
        ids = {key: getattr(model.generation_config, key) for key in keys}
        model.generation_config = GenerationConfig(
            do_sample=True, temperature=9.0, repetition_penalty=3.0, num_beams=2, **ids
        )
        model.save_pretrained(tmp_path / "m")
        stock.tokenizer.save_pretrained(tmp_path / "m")
        assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "m").generation_config.do_sample
        prompt = stock.prompts["t5"]
        backbone = dataclasses.replace(prompt.provenance.backbone, name=str(tmp_path / "m"))
        prompt = dataclasses.replace(prompt, provenance=dataclasses.replace(prompt.provenance, backbone=backbone))
        monkeypatch.chdir(export_peft(prompt, tmp_path / "p"))
        names: dict[str, Any] = {}
        exec(recipe(prompt), names)
        assert torch.equal(names["answers"], stock.found["t5 answers"])

    def test_of_a_decoder_warns_of_left_padding(self, stock):
        warns = {name: "padded on the left" in (stock.root / "exports" / name / "README.md").read_text()
                 for name in ("t5", "head", "words", "decoder")}  # fmt: skip
        assert warns == {"t5": False, "head": False, "words": False, "decoder": True}

    def test_has_ten_lines_or_little_more_and_imports_none_of_our_code(self, stock):
        for name in ("t5", "head", "words", "decoder"):
            code = re.search("```python\n(.*?)```", (stock.root / "exports" / name / "README.md").read_text(), re.S)
            assert code is not None
            assert "softprompt" not in code[1]
            statements = [line for line in code[1].splitlines() if line and not re.match("import|from|print", line)]
            assert len(statements) <= 11
