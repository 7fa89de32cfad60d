import copy
import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from softprompt.backbones import EncoderBackbone
from softprompt.backbones.decoder import ANSWER_CUE
from softprompt.errors import BadInput, CannotExport, DamagedFile, ModelMismatch, UnknownName
from softprompt.interop import hub
from softprompt.interop.numpy import export_numpy, import_numpy
from softprompt.interop.peft import export_peft, import_peft
from softprompt.interop.recipes import readme, recipe
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import BackboneIdentity, LinearHead, Provenance, SoftPrompt
from softprompt.store import save_prompt

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bad", "good", "film", "plot", "review", ":", "sentence"]
PADS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0}


def tiny_models():
    """One random model of each kind, whose answers show whether a prompt was lost."""
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        GPT2Config,
        GPT2LMHeadModel,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(5)  # with which every row generates something else without its prompt
    v = len(WORDS)
    t5 = T5Config(vocab_size=v, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, **PADS)
    bert = BertConfig(vocab_size=v, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    gpt2 = GPT2Config(vocab_size=v, n_embd=16, n_layer=2, n_head=2, n_positions=64, **PADS)
    models = {
        "encoder-decoder": T5ForConditionalGeneration(t5),
        "encoder": BertForMaskedLM(bert),
        "decoder": GPT2LMHeadModel(gpt2),
    }
    for model in models.values():
        model.eval().requires_grad_(False)
        # Matrices only, and a lot: with small weights or with biases every input generates the same.
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.add_(torch.randn(parameter.shape) * 0.7)
    return models


def tiny_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    specials = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **specials)


def a_prompt(kind="encoder-decoder", answers="tokens", *, name="a/model", m=3, e=16, repeats=1, seed=0) -> SoftPrompt:
    generator = torch.Generator().manual_seed(seed)
    head = None
    if answers == "linear-head":
        head = LinearHead(torch.randn(3, 16, generator=generator), torch.randn(3, generator=generator))
    provenance = Provenance(
        method="ept-star",
        backbone=BackboneIdentity(name, kind, e, "0" * 64),
        answers=answers,
        task={"name": "films", "template": "review : {film} plot", "labels": ["bad", "good"], "max_length": 64},
        metrics={"validation": {"accuracy": 0.75}},
        seeds={"initialization": 3},
    )
    return SoftPrompt(torch.randn(m, e, generator=generator), provenance, repeats, head)


def equal(one: SoftPrompt, other: SoftPrompt) -> bool:
    heads = [(p.head.weight, p.head.bias) if p.head else () for p in (one, other)]
    return (
        torch.equal(one.vectors, other.vectors)
        and (one.repeats, one.provenance) == (other.repeats, other.provenance)
        and len(heads[0]) == len(heads[1])
        and all(torch.equal(a, b) for a, b in zip(*heads, strict=True))
    )


# Runs without our code: transformers, peft and safetensors only.
STOCK = """
import sys
sys.modules["softprompt"] = None  # any import of ours fails
import os, re, sys, warnings
from pathlib import Path
import peft, torch, transformers
from peft import LoraConfig, PeftModel, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

root = Path(sys.argv[1])
warnings.simplefilter("error", UserWarning)  # PEFT warns of keys it does not know
warnings.filterwarnings("ignore", "Position ids are not supported")  # said at each generation of a decoder
given = load_file(root / "inputs.safetensors")
ids, mask = given["ids"], given["mask"]

def t5():
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(root / "models" / "encoder-decoder")

def bert():
    return transformers.AutoModelForMaskedLM.from_pretrained(root / "models" / "encoder")

found = {}
model = PeftModel.from_pretrained(t5(), root / "exports" / "t5").eval()
with torch.no_grad():
    found["t5 rows"] = model.get_prompt(1)[0].clone()
    out = model(input_ids=ids, attention_mask=mask, decoder_input_ids=given["decoder_ids"])
    found["t5 logits"] = out.logits
    found["t5 generated"] = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8)
    model = PeftModel.from_pretrained(bert(), root / "exports" / "unknown").eval()
    found["bert logits"] = model(input_ids=ids, attention_mask=mask).logits

for name in ("t5", "head", "words", "decoder"):
    os.chdir(root / "exports" / name)
    code = re.search("```python\\n(.*?)```", Path("README.md").read_text(), re.S)[1]
    print(f"--- {name}\\n{code}")
    names = {}
    exec(code, names)
    found[f"{name} answers"] = (names["answers"] if "answers" in names else names["scores"]).contiguous()

torch.manual_seed(1)
made = {
    "prompt-tuning": (t5, PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)),
    "p-tuning": (bert, PromptEncoderConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4)),
    "lora": (bert, LoraConfig(task_type="FEATURE_EXTRACTION")),
    "classes": (bert, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)),
}
for name, (build, config) in made.items():
    warnings.simplefilter("default")  # PEFT warns about its own defaults
    model = get_peft_model(build(), config).eval()
    model.save_pretrained(root / "made" / name)
    if name in ("prompt-tuning", "p-tuning"):
        found[f"{name} rows"] = model.get_prompt(1)[0][:4].detach().clone()
assert not [name for name in sys.modules if name.startswith("softprompt.")]
save_file({name: tensor.contiguous() for name, tensor in found.items()}, root / "found.safetensors")
"""

Stock = namedtuple("Stock", "root models tokenizer prompts inputs found")


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Exports of tiny models, and what stock transformers and PEFT make of them in a process without our code."""
    root = tmp_path_factory.mktemp("stock")
    models, tokenizer = tiny_models(), tiny_tokenizer()
    for kind, model in models.items():
        model.save_pretrained(root / "models" / kind)
        tokenizer.save_pretrained(root / "models" / kind)

    def of(kind, answers, **options):
        return a_prompt(kind, answers, name=str(root / "models" / kind), **options)

    prompts = {
        "t5": of("encoder-decoder", "tokens", m=1, repeats=5),
        "head": of("encoder", "linear-head", m=2, repeats=2),
        "words": of("encoder", "label-words"),
        "decoder": of("decoder", "tokens"),
        "unknown": a_prompt("encoder", "label-words", name="someone/elsewhere", seed=4),
    }
    for name, prompt in prompts.items():
        export_peft(prompt, root / "exports" / name)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(WORDS), (3, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    inputs = {"ids": ids, "mask": mask, "decoder_ids": torch.randint(0, len(WORDS), (3, 4), generator=generator)}
    save_file(inputs, root / "inputs.safetensors")
    command = [sys.executable, "-c", STOCK, str(root)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Stock(root, models, tokenizer, prompts, inputs, load_file(root / "found.safetensors"))


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


class TestPeftAndBack:
    @pytest.mark.parametrize("name", ["t5", "head", "words", "decoder", "unknown"])
    def test_an_export_comes_back_bit_for_bit(self, stock, name):
        assert equal(import_peft(stock.root / "exports" / name), stock.prompts[name])

    def test_the_unused_half_of_a_default_peft_file_is_dropped_and_said(self, stock, caplog):
        stored = load_file(stock.root / "made" / "prompt-tuning" / "adapter_model.safetensors")["prompt_embeddings"]
        assert stored.shape == (8, 16)
        prompt = import_peft(stock.root / "made" / "prompt-tuning")
        assert torch.equal(prompt.vectors, stock.found["prompt-tuning rows"])
        assert prompt.provenance.training == {"imported_from": "PEFT PROMPT_TUNING", "dropped_rows": 4}
        assert "stores 8 rows; PEFT reads the first 4" in caplog.text

    def test_p_tuning_files_hold_the_final_rows(self, stock):
        prompt = import_peft(stock.root / "made" / "p-tuning")
        assert torch.equal(prompt.vectors, stock.found["p-tuning rows"])
        backbone = prompt.provenance.backbone
        assert (backbone.kind, backbone.embedding_size, backbone.embedding_sha256) == ("encoder", 16, None)
        assert (prompt.provenance.method, prompt.provenance.answers) == ("imported", "label-words")
        assert backbone.name == str(stock.root / "models" / "encoder")

    def test_another_method_of_peft_is_refused_by_name(self, stock):
        with pytest.raises(BadInput, match="is of type 'LORA'"):
            import_peft(stock.root / "made" / "lora")

    def test_a_task_type_with_a_classifier_of_its_own_is_refused(self, stock):
        with pytest.raises(BadInput, match="task type 'SEQ_CLS'"):
            import_peft(stock.root / "made" / "classes")

    def test_a_changed_export_is_refused(self, tmp_path):
        folder = export_peft(a_prompt(), tmp_path / "p")
        save_file({"prompt_embeddings": torch.ones(3, 16)}, folder / "adapter_model.safetensors")
        with pytest.raises(DamagedFile, match=r"adapter_model\.safetensors' is not what was written"):
            import_peft(folder)


class TestPeftFoldersThatCannotBeRead:
    def folder(self, path: Path, rows=None, **changes) -> Path:
        path = path / "foreign"
        path.mkdir()
        config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "token_dim": 16}
        (path / "adapter_config.json").write_text(json.dumps(config | changes))
        rows = torch.randn(4, 16) if rows is None else rows
        save_file({"prompt_embeddings": rows, "other": torch.ones(1)}, path / "adapter_model.safetensors")
        return path

    def test_the_plain_folder_is_read(self, tmp_path):
        assert import_peft(self.folder(tmp_path, torch.eye(4, 16))).vectors.equal(torch.eye(4, 16))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_precisions_become_float32(self, tmp_path, dtype):
        rows = torch.randn(4, 16).to(dtype)
        prompt = import_peft(self.folder(tmp_path, rows))
        assert torch.equal(prompt.vectors, rows.to(torch.float32))

    def test_a_pickle_is_refused_unread(self, tmp_path):
        folder = self.folder(tmp_path)
        (folder / "adapter_model.safetensors").unlink()
        (folder / "adapter_model.bin").write_bytes(pickle.dumps({"prompt_embeddings": [1.0]}))
        with pytest.raises(BadInput, match=r"only adapter_model\.bin, a pickle"):
            import_peft(folder)

    @pytest.mark.parametrize("peft_type", ["PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", None, ["PROMPT_TUNING"]])
    def test_types_that_are_more_than_rows(self, tmp_path, peft_type):
        with pytest.raises(BadInput, match="more than rows before the input"):
            import_peft(self.folder(tmp_path, peft_type=peft_type))

    @pytest.mark.parametrize("task_type", [None, "TOKEN_CLS", "nonsense", ["CAUSAL_LM"]])
    def test_task_types_that_do_not_tell_the_kind(self, tmp_path, task_type):
        with pytest.raises(BadInput, match="give the backbone"):
            import_peft(self.folder(tmp_path, task_type=task_type))

    @pytest.mark.parametrize(("rows", "n"), [(8, 4), (3, 4), (4, None), (4, "4"), (4, 0)])
    def test_rows_that_contradict_the_configuration(self, tmp_path, rows, n):
        with pytest.raises(BadInput, match="virtual tokens and stores"):
            import_peft(self.folder(tmp_path, torch.ones(rows, 16), num_virtual_tokens=n))

    def test_a_width_that_contradicts_the_configuration(self, tmp_path):
        with pytest.raises(BadInput, match="says width 32 and stores 16"):
            import_peft(self.folder(tmp_path, token_dim=32))

    def test_numbers_that_are_not_finite(self, tmp_path):
        with pytest.raises(BadInput, match="NaN or infinity"):
            import_peft(self.folder(tmp_path, torch.full((4, 16), float("nan"))))

    @pytest.mark.parametrize("rows", [torch.ones(4, 16, dtype=torch.int8), torch.ones(64), torch.ones(0, 16)])
    def test_tensors_that_are_no_rows(self, tmp_path, rows):
        with pytest.raises(BadInput, match="needs 'prompt_embeddings'"):
            import_peft(self.folder(tmp_path, rows))

    def test_a_folder_that_is_not_pefts(self, tmp_path):
        with pytest.raises(BadInput, match=r"holds no adapter_config\.json"):
            import_peft(tmp_path)


class TestPromptsThatPeftCannotHold:
    def refused(self, tmp_path, prompt, match, **options):
        with pytest.raises(CannotExport, match=match):
            export_peft(prompt, tmp_path / "p", **options)
        assert not (tmp_path / "p").exists()

    def test_a_head_without_a_prompt(self, tmp_path):
        self.refused(tmp_path, a_prompt("encoder", "linear-head", m=0), "a head without a prompt")

    def test_an_unknown_kind_of_backbone(self, tmp_path):
        self.refused(tmp_path, a_prompt("diffusion"), "kind 'diffusion'")

    @pytest.mark.parametrize(
        ("kind", "answers"), [("decoder", "linear-head"), ("encoder", "tokens"), ("decoder", "words")]
    )
    def test_an_answer_that_no_stock_model_gives(self, tmp_path, kind, answers):
        self.refused(tmp_path, a_prompt(kind, answers), f"kind '{kind}' answers by '{answers}'")

    def test_a_lost_head(self, tmp_path):
        prompt = dataclasses.replace(a_prompt("encoder", "linear-head"), head=None)
        self.refused(tmp_path, prompt, "has a head exactly if")

    def test_a_model_of_another_width(self, tmp_path):
        with pytest.raises(ModelMismatch, match="this prompt is 8 wide, this model's embeddings 16"):
            export_peft(a_prompt("encoder", "label-words", e=8), tmp_path / "p", model=tiny_models()["encoder"])


class TestNumpy:
    def saved(self, tmp_path, array) -> Path:
        np.save(tmp_path / "p.npy", array, allow_pickle=True)
        return tmp_path / "p.npy"

    @pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_floats_of_any_form_become_float32(self, tmp_path, dtype, order):
        array = np.random.default_rng(0).normal(size=(5, 16)).astype(dtype, order=order)
        prompt = import_numpy(self.saved(tmp_path, array), backbone_name="google/t5", kind="decoder")
        assert torch.equal(prompt.vectors, torch.tensor(array.astype(np.float32).tolist()))
        assert prompt.provenance.backbone == BackboneIdentity("google/t5", "decoder", 16)
        assert (prompt.provenance.method, prompt.repeats) == ("imported", 1)

    def test_an_exported_array_is_the_expanded_prompt(self, tmp_path):
        prompt = a_prompt(m=2, repeats=3)
        array = np.load(export_numpy(prompt, tmp_path / "p.npy"), allow_pickle=False)
        assert array.dtype == np.float32
        assert np.array_equal(array, prompt.expanded().numpy())
        with pytest.raises(BadInput, match="exists already"):
            export_numpy(prompt, tmp_path / "p.npy")

    def test_a_prompt_with_a_head_does_not_fit_an_array(self, tmp_path):
        with pytest.raises(CannotExport, match="this prompt has a head"):
            export_numpy(a_prompt("encoder", "linear-head"), tmp_path / "p.npy")

    @pytest.mark.parametrize(
        ("array", "match"),
        [
            (np.ones((5, 16), np.int64), "holds int64"),
            (np.ones((5, 16), complex), "holds complex128"),
            (np.array([["a"]]), "holds <U1"),
            (np.ones(16), r"shape \(16,\)"),
            (np.ones((1, 5, 16)), r"shape \(1, 5, 16\)"),
            (np.ones((0, 16)), r"shape \(0, 16\)|no whole"),
            (np.full((5, 16), np.inf), "NaN or infinity"),
            (np.full((5, 16), 1e300), "NaN or infinity"),
            (np.array([[{}]], dtype=object), "no whole .npy file"),
        ],
    )
    def test_arrays_that_are_no_prompt_are_refused(self, tmp_path, array, match):
        with pytest.raises(BadInput, match=match):
            import_numpy(self.saved(tmp_path, array), backbone_name="t5")

    @pytest.mark.parametrize("content", [b"", b"\x93NUMPY", pickle.dumps([1, 2]), b"PK\x03\x04", b"a,b\n1,2\n"])
    def test_files_that_are_no_array_are_refused(self, tmp_path, content):
        (tmp_path / "p.npy").write_bytes(content)
        with pytest.raises(BadInput, match=r"no whole \.npy file"):
            import_numpy(tmp_path / "p.npy", backbone_name="t5")

    def test_a_header_that_promises_too_much_takes_no_memory(self, tmp_path):
        path = self.saved(tmp_path, np.ones((5, 16), np.float32))
        content = path.read_bytes()
        path.write_bytes(content.replace(b"(5, 16), }" + b" " * 12, b"(2199023255552, 16), }"))
        assert path.read_bytes() != content
        with pytest.raises(BadInput, match=r"no whole \.npy file"):
            import_numpy(path, backbone_name="t5")

    def test_an_archive_of_arrays_is_refused(self, tmp_path):
        np.savez(tmp_path / "p.npz", a=np.ones((5, 16)))
        with pytest.raises(BadInput, match=r"no whole \.npy file"):
            import_numpy(tmp_path / "p.npz", backbone_name="t5")

    def test_an_unknown_kind_is_named_with_the_nearest(self, tmp_path):
        with pytest.raises(UnknownName, match="Did you mean 'encoder'"):
            import_numpy(self.saved(tmp_path, np.ones((5, 16))), backbone_name="t5", kind="encodr")

    @pytest.mark.parametrize(("task", "norm"), [("mrpc", 868), ("rte", 903), ("sst2", 1385)])
    def test_the_published_prompts_have_their_known_norms(self, task, norm):
        if not (root := os.environ.get("SOFTPROMPT_DATA_ROOT")):
            pytest.skip("SOFTPROMPT_DATA_ROOT is not set")
        path = Path(root).parent / "models" / "prompts" / "t5_1_1_lm100k_base" / f"{task}.npy"
        if not path.exists():
            pytest.skip("the published prompts are not there")
        prompt = import_numpy(path, backbone_name="google/t5-base-lm-adapt")
        assert prompt.vectors.shape == (100, 768)
        assert prompt.vectors.norm(dim=1).mean().item() == pytest.approx(norm, abs=0.5)


class TestHub:
    """The hub is a folder here: huggingface_hub's functions are replaced, nothing is sent."""

    @pytest.fixture
    def repositories(self, tmp_path, monkeypatch):
        import huggingface_hub

        store, calls = tmp_path / "hub", []

        def create_repo(self, repo_id, *, private=None, exist_ok=False):
            calls.append((repo_id, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            for file in Path(folder_path).iterdir():
                blob = store / "blobs" / f"{repo_id.replace('/', '--')}-{file.name}"
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_bytes(file.read_bytes())
                link = store / repo_id / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)  # as in the real cache
            return namedtuple("Commit", "commit_url")(f"https://huggingface.co/{repo_id}/commit/1")

        def snapshot_download(repo_id, *, allow_patterns):
            assert sorted(allow_patterns) == ["manifest.json", "prompt.json", "prompt.safetensors"]
            if not (store / repo_id).is_dir():
                raise FileNotFoundError(f"404 Client Error.\n\nRepository Not Found for {repo_id}")
            return str(store / repo_id)

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        monkeypatch.chdir(tmp_path)
        return namedtuple("Repositories", "store calls")(store, calls)

    def test_a_pushed_prompt_loads_by_its_name(self, repositories):
        prompt = a_prompt("encoder", "linear-head")
        assert prompt.push_to_hub("user/name", private=True) == "https://huggingface.co/user/name/commit/1"
        assert repositories.calls == [("user/name", True, True)]
        assert equal(SoftPrompt.load("user/name"), prompt)

    def test_the_model_card_names_backbone_task_and_scores(self, repositories):
        hub.push_prompt(a_prompt(), "user/name", private=False)
        card = (repositories.store / "user" / "name" / "README.md").read_text()
        assert card.startswith("---\nlibrary_name: softprompt\nbase_model: a/model\n")
        assert "trained on films by ept-star" in card
        assert "- validation accuracy: 0.75" in card
        assert 'SoftPrompt.load("user/name")' in card

    def test_names_of_a_stranger_stay_names_in_every_readme(self, repositories, tmp_path):
        evil = "x\n\n## Load\n\n```python\nimport os\n```\n<b>[here](http://evil)"
        prompt = a_prompt(name=evil)
        provenance = dataclasses.replace(
            prompt.provenance,
            method=evil,
            task={"name": evil, "labels": [evil]},
            seeds={evil: 1},
            metrics={evil: {evil: 0.5}},
        )
        prompt = dataclasses.replace(prompt, provenance=provenance)
        for text in (hub.model_card(prompt, "user/name"), readme(prompt)):
            assert text.count("\n## Load") <= 1
            assert text.count("\n```python") == 1
            assert text.count("```") == 2 + text.count(repr(evil)) * 2
            assert "<b>" not in text.replace(repr(evil), "")
            assert "](http" not in text.replace(repr(evil), "")

    def test_a_folder_that_is_here_comes_before_the_hub(self, repositories, tmp_path):
        hub.push_prompt(a_prompt(seed=1), "user/name", private=False)
        save_prompt(a_prompt(seed=2), tmp_path / "user" / "name")
        assert equal(hub.load_prompt("user/name"), a_prompt(seed=2))

    def test_a_run_with_one_prompt_loads(self, tmp_path):
        save_prompt(a_prompt(), tmp_path / "run" / "s0" / "prompt")
        (tmp_path / "run" / "run.json").write_text("{}")
        assert equal(hub.load_prompt(tmp_path / "run"), a_prompt())

    def test_a_name_that_is_nowhere_gives_one_line(self, repositories):
        with pytest.raises(BadInput, match="there is no 'user/other' here, and not on the hub either: 404") as refused:
            hub.load_prompt("user/other")
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        "source", ["nowhere", "a/b/c", "../x", "/tmp/nowhere/x", "user/", "https://x/y", Path("a/b")]
    )
    def test_what_is_neither_a_path_nor_a_name_is_not_asked_of_the_hub(self, repositories, source):
        with pytest.raises(BadInput, match="nor user/name on the hub"):
            hub.load_prompt(source)

    def test_a_repository_of_something_else_says_so(self, repositories):
        (repositories.store / "user" / "model").mkdir(parents=True)
        with pytest.raises(BadInput, match="holds no softprompt files"):
            hub.load_prompt("user/model")

    def test_a_damaged_download_is_refused(self, repositories):
        hub.push_prompt(a_prompt(), "user/name", private=False)
        blob = repositories.store / "blobs" / "user--name-prompt.safetensors"
        blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
        with pytest.raises(DamagedFile, match="not what was written"):
            hub.load_prompt("user/name")

    def test_a_push_that_the_hub_refuses_gives_one_line(self, repositories, monkeypatch):
        import huggingface_hub

        def refuse(self, *args, **kwargs):
            raise OSError("401 Unauthorized\n\nInvalid token")

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
        with pytest.raises(BadInput, match="could not push to 'user/name': 401 Unauthorized; log in"):
            hub.push_prompt(a_prompt(), "user/name", private=False)

    def test_a_repository_without_a_user_is_refused(self):
        with pytest.raises(BadInput, match="not of the form user/name"):
            hub.push_prompt(a_prompt(), "name", private=False)
