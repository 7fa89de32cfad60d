"""What cannot be trained in place of a prompt is refused by name."""

import dataclasses

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.baselines import BASELINES
from softprompt.baselines.kinds import swap_for
from softprompt.errors import BadInput, SoftPromptError, UnknownName, UnsupportedModel
from softprompt.lab.demo import Demo
from softprompt.prompts.methods import METHODS
from softprompt.settings import PromptSettings
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

    @pytest.mark.parametrize(
        ("method", "options", "error"),
        [
            ("cartridge", {"text": "good film"}, "length=5"), ("cartridge", {"frozen": 10}, "0 to 9"),
            ("prefix-tuning", {"length": 0}, "at least 1"), ("dept", {"positions": 8}, "positions=59"),
            ("dept", {"rank": 0}, "at least 1"), ("adapter-drop", {"share": 0.9}, "without any adapter"),
            ("adapter", {"bottleneck": 0}, "at least 1"),
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


def test_the_demo_shows_prompts_only(tmp_path):
    with pytest.raises(BadInput, match="'full' trains weights"):
        Demo(methods=["full"], output=tmp_path)
