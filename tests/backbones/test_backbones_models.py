"""Which models, folders and prompts are taken, and which are refused."""

import copy
import json
from logging import INFO

import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.errors import BadInput, ModelMismatch, UnknownName, UnsupportedModel
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.prompt import Provenance, SoftPrompt

from backbones_kit import DOUBLE, TEXTS, WORDS, batch_of, one_of, random_prompt, word_ids, word_vectors
from kit import targets_of


def stored(backbone, vectors, **changes):
    return SoftPrompt(vectors, Provenance("imported", backbone.identity(), backbone.answers, **changes))


@pytest.mark.parametrize(("family", "layers"), [("t5", ["q", "v"]), ("bert", ["query", "value"])])
def test_lora_stays_active_under_a_prompt(family, layers, tiny_model):
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    model, tokenizer = tiny_model(family, dtype=torch.float64)
    plain = from_model(copy.deepcopy(model), tokenizer)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=layers, lora_dropout=0.5))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.3)
    backbone = from_model(wrapped, tokenizer)
    batch = batch_of(backbone, TEXTS[:1], targets=targets_of(backbone, ["good"]))
    prompt_batch = PromptBatch.stack([word_vectors(backbone, WORDS[0])])
    ids = torch.cat([word_ids(backbone, WORDS[0]), one_of(batch, 0).ids], 1)
    if family == "t5":
        expected = wrapped(input_ids=ids, labels=batch.targets).logits
    else:
        expected = wrapped(input_ids=ids).logits[ids == tokenizer.mask_token_id][:, None]
    torch.testing.assert_close(backbone.logits(prompt_batch, batch), expected, **DOUBLE)
    assert not torch.allclose(plain.logits(prompt_batch, batch), expected, atol=1e-3)
    assert not any(weight.requires_grad for weight in wrapped.parameters())


def test_a_model_that_peft_already_gave_a_prompt_is_refused(tiny_t5):
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    model, tokenizer = tiny_t5()
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2, num_transformer_submodules=1)
    with pytest.raises(UnsupportedModel, match="'default' is a prompt"):
        from_model(peft.get_peft_model(model, config), tokenizer)


def test_the_same_weights_in_bfloat16_are_the_same_model(tiny_t5):
    single, half = from_model(*tiny_t5()), from_model(*tiny_t5(dtype=torch.bfloat16))
    assert single.identity().embedding_sha256 == half.identity().embedding_sha256
    assert single.identity().embedding_sha256 != from_model(*tiny_t5(seed=1)).identity().embedding_sha256


def test_a_prompt_of_another_model_is_refused_with_both_names(tiny_t5, tiny_bert):
    ours = from_model(*tiny_t5(), name="ours")
    theirs = from_model(*tiny_t5(seed=1), name="theirs")
    wide = from_model(*tiny_t5(d_model=32), name="wide")
    ours.check(stored(ours, random_prompt(ours, 2)))
    with pytest.raises(
        ModelMismatch, match=r"'theirs' \(e = 16\), this model is 'ours' \(e = 16\) with other word emb"
    ):
        ours.check(stored(theirs, random_prompt(theirs, 2)))
    with pytest.raises(ModelMismatch, match=r"'wide' \(e = 32\), this model is 'ours' \(e = 16\); a prompt works only"):
        ours.check(stored(wide, random_prompt(wide, 2)))
    words = from_model(*tiny_bert(), name="bert")
    head = from_model(*tiny_bert(), name="bert", answers="linear-head")
    with pytest.raises(ModelMismatch, match="load it with answers='label-words'"):
        head.check(stored(words, random_prompt(words, 2)))


def test_loading_leaves_the_settings_of_transformers_alone(tiny_t5, save_tiny, tmp_path, capfd):
    from transformers.utils import logging

    folder = save_tiny(tmp_path / "model", *tiny_t5())
    capfd.readouterr()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        load_backbone(folder)
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (INFO, True)
    finally:
        logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tiny_t5, tiny_model):
    model, _ = tiny_t5()
    _, other = tiny_model("bart")
    with pytest.raises(BadInput, match="give the tokenizer of this model"):
        from_model(model, other)


class TestBadFolders:
    @pytest.fixture
    def folder(self, tiny_t5, save_tiny, tmp_path):
        return save_tiny(tmp_path / "model", *tiny_t5())

    def refused(self, kind, message, name, **options):
        with pytest.raises(kind, match=message) as caught:
            load_backbone(name, **options)
        assert "\n" not in str(caught.value)

    def test_no_such_folder(self, tmp_path):
        self.refused(BadInput, "there is no model folder", tmp_path / "none")

    def test_no_name(self):
        self.refused(BadInput, "there is no model folder ''", "")

    def test_no_such_hub_id(self):
        self.refused(BadInput, "neither a folder here nor a model on the hub", "nobody/nothing")

    def test_a_folder_of_something_else(self, tmp_path):
        self.refused(BadInput, "holds no config.json", tmp_path)

    def test_a_broken_configuration(self, folder):
        (folder / "config.json").write_text("{")
        self.refused(BadInput, "configuration of .* cannot be read", folder)

    def test_no_tokenizer(self, folder):
        for path in folder.glob("tokenizer*"):
            path.unlink()
        self.refused(BadInput, "holds no tokenizer", folder)

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        self.refused(BadInput, "weights of .* cannot be loaded", folder)

    def test_weights_cut_short(self, folder):
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        self.refused(BadInput, "weights of .* cannot be loaded", folder)

    def test_weights_that_the_checkpoint_lacks(self, folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        del weights["decoder.block.1.layer.2.DenseReluDense.wo.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        self.refused(UnsupportedModel, "lacks 1 weights of its architecture", folder)

    def test_weights_of_another_kind(self, folder):
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 1}))
        self.refused(UnsupportedModel, "lacks [0-9]+ weights of its architecture", folder)

    def test_half_an_encoder_decoder(self, folder):
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | {"is_encoder_decoder": False}))
        self.refused(UnsupportedModel, "the encoder of a t5 alone", folder)

    def test_another_family(self, folder):
        (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
        self.refused(UnsupportedModel, "is a vit, which neither writes", folder)

    def test_a_family_that_nobody_knows(self, folder):
        (folder / "config.json").write_text(json.dumps({"model_type": "zebra"}))
        self.refused(UnsupportedModel, "no family that transformers knows", folder)

    def test_float16(self, folder):
        self.refused(UnsupportedModel, "float16 is refused .*65504", folder, dtype="float16")

    def test_a_misspelt_dtype(self, folder):
        self.refused(UnknownName, "Did you mean 'float32'", folder, dtype="floa32")

    def test_no_such_device(self, folder):
        self.refused(
            BadInput,
            "`device` 'abacus' does not exist on this machine; give auto, spread, cpu",
            folder,
            device="abacus",
        )

    def test_answers_that_do_not_exist(self, folder):
        self.refused(UnknownName, "Did you mean 'label-words'", folder, answers="label-word")
