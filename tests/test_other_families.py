"""Families that are in no table: taken if a prompt acts as it should in them, refused with the reason if not."""

import pytest
import torch
import transformers
from softprompt.backbones import from_model
from softprompt.errors import UnsupportedModel

from conftest import build_tokenizer

SHAPE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64, "initializer_range": 0.5,
}  # fmt: skip


def build(kind, config, family, **options):
    tokenizer = build_tokenizer(family)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, kind)(getattr(transformers, config)(vocab_size=len(tokenizer), **options))
    return model.eval(), tokenizer


def deberta():
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    return build("DebertaV2ForMaskedLM", "DebertaV2Config", "bert", **SHAPE, **relative)


def test_an_encoder_that_keeps_both_properties_is_taken():
    backbone = from_model(*deberta())
    assert (backbone.kind, backbone.answers) == ("encoder", "label-words")


def test_an_encoder_decoder_that_keeps_both_properties_is_taken():
    sizes = {f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in
             (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    model = build(
        "MBartForConditionalGeneration", "MBartConfig", "bart", d_model=16, max_position_embeddings=64, init_std=0.5,
        decoder_start_token_id=2, **sizes,
    )  # fmt: skip
    assert from_model(*model).kind == "encoder-decoder"


def test_a_convolution_that_reads_pads_is_refused():
    model = build("ConvBertForMaskedLM", "ConvBertConfig", "bert", embedding_size=16, **SHAPE)
    with pytest.raises(UnsupportedModel, match="padding changes its states"):
        from_model(*model)


def test_a_model_that_reads_a_prompt_unlike_its_words_is_refused(monkeypatch):
    """The backbone's own join is broken: words and prompt no longer have the same positions."""
    from softprompt.backbones import EncoderBackbone

    inputs = EncoderBackbone._inputs

    def without_the_prompt_counted(self, joined):
        given = inputs(self, joined)
        given["position_ids"] = (given["position_ids"] - joined.prompt_length).clamp(min=0)
        return given

    monkeypatch.setattr(EncoderBackbone, "_inputs", without_the_prompt_counted)
    model = build("MegatronBertForMaskedLM", "MegatronBertConfig", "bert", **SHAPE)
    with pytest.raises(UnsupportedModel, match="does not act as those words"):
        from_model(*model)
