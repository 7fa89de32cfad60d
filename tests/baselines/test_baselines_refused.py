"""What cannot be trained in place of a prompt is refused by name."""

import dataclasses
import json

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.baselines import BASELINES, load_peft
from softprompt.baselines.kinds import swap_for
from softprompt.errors import BadInput, SoftPromptError, UnknownName, UnsupportedModel
from softprompt.lab.demo import Demo
from softprompt.prompts.methods import METHODS
from softprompt.prompts.prompt import Provenance
from softprompt.settings import PromptSettings
from softprompt.store import json_bytes, load_tuned, tensor_bytes, write_folder
from softprompt.training import train

from baselines_kit import NO_BIASES, SETTINGS, digest, peft_model


class TestRefusals:
    @pytest.mark.parametrize("family", NO_BIASES)
    def test_bitfit_needs_biases(self, family, backbone_of, task, tmp_path):
        with pytest.raises(UnsupportedModel, match=r"has none; give .* add_missing=true"):
            train(task, backbone_of(family), method="bitfit", output=tmp_path / "run", **SETTINGS)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("method", BASELINES)
    def test_quantised_and_half_precision_weights_are_refused_by_name(self, method, tiny_gpt, backbone_of):
        backbone = backbone_of("gpt2")
        backbone.quantize = "int8"
        options = METHODS[method].options
        with pytest.raises(UnsupportedModel, match=f"'{method}'.*quantised"):
            swap_for(method, backbone, options)
        half = from_model(*tiny_gpt("gpt2", dtype=torch.bfloat16), name="gpt2")
        with pytest.raises(UnsupportedModel, match=f"'{method}'.*bfloat16"):
            swap_for(method, half, options)

    @pytest.mark.parametrize(
        ("option", "value"),
        [("init", "vocabulary"), ("units", "rms"), ("max_norm", 3.0), ("deep", True)],
    )
    def test_settings_of_prompts_are_refused(self, option, value, backbone_of, task, tmp_path):
        with pytest.raises(BadInput, match=f"'full' trains weights, and `{option}` is for prompts"):
            train(task, backbone_of("t5"), method="full", output=tmp_path / "run", **{option: value}, **SETTINGS)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"r": 0}, "r of at least 1"), ({"dropout": 1.0}, "dropout"), ({"targets": "nowhere"}, "nowhere"),
            ({"rank": 3}, "rank"),
        ],
    )  # fmt: skip
    def test_options_of_a_lora_that_cannot_be_are_refused(self, options, error, backbone_of, task, tmp_path):
        backbone = backbone_of("t5")
        before = digest(backbone.model)
        with pytest.raises(SoftPromptError, match=error):
            train(task, backbone, method="lora", options=options, output=tmp_path / "run", **SETTINGS)
        assert digest(backbone.model) == before

    def test_weights_are_not_trained_beside_prompts_that_begin_as_words(self, backbone_of, task, tmp_path):
        asked = dataclasses.replace(task, instruction="film is")
        prompts = [PromptSettings(method="full"), PromptSettings(init="instruction")]
        with pytest.raises(BadInput, match="'full' trains weights, and beside"):
            train(asked, backbone_of("t5"), prompts=prompts, output=tmp_path / "run", **SETTINGS)

    @pytest.mark.parametrize(
        ("family", "method", "error"),
        [
            ("bert", "prefix-tuning", "'prefix-tuning' needs a decoder.*is an encoder"),
            ("t5", "cartridge", "'cartridge' begins as a decoder's own cache"),
        ],
    )
    def test_what_a_backbone_cannot_have_is_refused_by_name(self, family, method, error, backbone_of):
        with pytest.raises(UnsupportedModel, match=error):
            swap_for(method, backbone_of(family), METHODS[method].options)

    def test_layers_that_share_entries_cannot_begin_as_words(self, backbone_of):
        options = {**METHODS["prefix-tuning"].options, "begins": "words"}
        with pytest.raises(UnsupportedModel, match=r"layers of .* share entries.*begins=random"):
            swap_for("prefix-tuning", backbone_of("t5"), options)

    @pytest.mark.parametrize(
        ("method", "options", "error"),
        [
            ("cartridge", {"text": "good film"}, "length=5"), ("cartridge", {"frozen": 10}, "0 to 9"),
            ("prefix-tuning", {"length": 0}, "at least 1"), ("dept", {"positions": 8}, "positions=59"),
            ("dept", {"rank": 0}, "at least 1"), ("adapter-drop", {"share": 0.9}, "without any adapter"),
            ("adapter", {"bottleneck": 0}, "at least 1"),
            ("prefix-tuning", {"begins": "text"}, "one of auto, words, random, not as 'text'"),
            ("ia3", {"feedforward": "fc"}, "among"), ("attempt", {"length": 3}, "--prompt-length 10"),
        ],
    )  # fmt: skip
    def test_options_that_cannot_be_are_refused(self, method, options, error, backbone_of, more_of, task, tmp_path):
        with pytest.raises(BadInput, match=error.replace("--prompt-length 10", "prompt_length")):
            train(
                task, backbone_of("gpt2"), method=method, options=options, output=tmp_path / "run",
                **more_of(method, "gpt2"), **SETTINGS,
            )  # fmt: skip
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("method", ["lora", "ia3"])
    def test_without_peft_one_line_names_the_extra(self, method, backbone_of, monkeypatch):
        monkeypatch.setattr("softprompt.baselines.peft_layers.find_spec", lambda name: None)
        with pytest.raises(BadInput, match=rf"'{method}' is built by PEFT.*softprompt\[peft\]"):
            swap_for(method, backbone_of("t5"), METHODS[method].options)

    def test_full_fine_tuning_has_no_options(self):
        with pytest.raises(BadInput, match="takes no option 'r'"):
            METHODS["full"].with_options({"r": 3})

    def test_a_model_with_adapters_gets_no_second_ones(self, backbone_of):
        backbone = backbone_of("gpt2")
        peft_model(backbone, 0)
        before = digest(backbone.model)
        with pytest.raises(UnsupportedModel, match="adapters of PEFT already"):
            swap_for("lora", backbone, METHODS["lora"].options)
        assert digest(backbone.model) == before

    def test_an_unknown_kind_is_named(self, backbone_of):
        with pytest.raises(UnknownName, match="Did you mean 'lora'"):
            swap_for("loar", backbone_of("t5"), {})


LAYER = "transformer.h.0.attn.c_attn"
LORA = {f"{LAYER}.lora_A.weight": torch.zeros(4, 16), f"{LAYER}.lora_B.weight": torch.zeros(48, 4)}
OF_PEFT = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0, "target_modules": [LAYER]}
PREFIX = {"peft_type": "PREFIX_TUNING"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"r": 10**9}, r"say r=1000000000 and hold 'transformer.*' of shape \(4, 16\)"),
        ({"r": "x"}, "'r' of the stored weights is 'x'"),
        ({"lora_alpha": "x"}, "'alpha' of the stored weights is 'x'"),
        ({"lora_dropout": "x"}, "'dropout' of the stored weights is 'x'"),
        ({"target_modules": [1, 2]}, "a list of texts"),
        ({"target_modules": 7}, "a list of texts"),
        ({"peft_type": ["LORA"]}, r"type \['LORA'\]"),
        ({**PREFIX, "num_virtual_tokens": 10**9}, "say length=1000000000 and hold none"),
        ({**PREFIX, "num_virtual_tokens": None}, "'length' of the stored weights is missing"),
        (
            {"peft_type": "CARTRIDGE", "num_virtual_tokens": 9, "num_frozen_tokens": "x"},
            "'frozen' of the stored weights",
        ),
    ],
)
def test_a_folder_of_peft_whose_options_do_not_fit_its_weights_is_refused(changes, error, backbone_of, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(OF_PEFT | changes))
    weights = {f"base_model.model.{name}": weight for name, weight in LORA.items()}
    (tmp_path / "adapter_model.safetensors").write_bytes(tensor_bytes(weights))
    with pytest.raises(BadInput, match=error):
        load_peft(tmp_path, backbone_of("gpt2"))


def test_what_a_folder_of_peft_leaves_out_is_as_pefts_defaults(backbone_of, tmp_path):
    config = {name: value for name, value in OF_PEFT.items() if name != "lora_dropout"}
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 16.5}))
    weights = {f"base_model.model.{name}": weight for name, weight in LORA.items()}
    (tmp_path / "adapter_model.safetensors").write_bytes(tensor_bytes(weights))
    options = load_peft(tmp_path, backbone_of("gpt2")).options
    assert options == {"r": 4, "alpha": 16.5, "dropout": 0.0, "targets": LAYER}


@pytest.mark.parametrize(
    ("options", "dtype", "width", "error"),
    [
        ({}, torch.float32, 16, "is missing"),
        ({"r": "x"}, torch.float32, 16, "'r' of the stored weights is 'x'"),
        ({"r": True}, torch.float32, 16, "'r' of the stored weights is 'True'"),
        ({"targets": 3}, torch.float32, 16, "'targets' of the stored weights is '3'"),
        ({"r": 10**9}, torch.float32, 16, "say r=1000000000"),
        ({"length": 3}, torch.float32, 16, "unknown option of the stored weights 'length'"),
        ({"r": 4}, torch.int64, 16, "is torch.int64"),
        ({"r": 4}, torch.bool, 16, "is torch.bool"),
        ({"r": 4}, torch.float32, 7, r"has shape \(0, 7\), needed is \(length, 16\)"),
    ],
)
def test_stored_weights_whose_options_do_not_fit_them_are_refused(options, dtype, width, error, backbone_of, tmp_path):
    origin = Provenance(method="lora", backbone=backbone_of("gpt2").identity(), answers="tokens")
    tensors = {f"weights.{name}": weight.to(dtype) for name, weight in LORA.items()}
    tensors["prompt.vectors"] = torch.zeros(0, width)
    document = {
        "format": 1,
        "kind": "lora",
        "options": {**METHODS["lora"].options, **options} if options else {},
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "provenance": origin.to_json(),
    }
    body = {"weights.json": json_bytes(document), "weights.safetensors": tensor_bytes(tensors)}
    with pytest.raises((BadInput, UnknownName), match=error):
        load_tuned(write_folder(tmp_path / "w", body, what="the weights"))


def test_the_demo_shows_prompts_only(tmp_path):
    with pytest.raises(BadInput, match="'full' trains weights"):
        Demo(methods=["full"], output=tmp_path)
